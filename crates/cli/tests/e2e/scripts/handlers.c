/*
 * An echo server whose signal handlers use sockets and fork, at a high rate, while its main loop is in calls on other sockets.
 *
 * handlers ADDR PORT COUNT   COUNT times: a connection, which names the call to wait with in a line and is echoed after that, and one to which
 *                            the handlers write; further ones are accepted in a handler.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int listener, told;
static volatile long calls, ticks, forks, accepted, reaped;

static void on_alarm(int signal)
{
    int before = errno;
    (void)signal;
    if (send(told, "t", 1, MSG_DONTWAIT) == 1)
        ticks++;
    if (++calls % 32 == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            send(told, "f", 1, 0);
            _exit(0);
        }
        if (pid > 0)
            forks++;
    }
    int more = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (more >= 0) {
        accepted++;
        write(more, "hi", 2);
        close(more);
    }
    errno = before;
}

static void on_child(int signal)
{
    int before = errno;
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        reaped++;
    errno = before;
}

static void handle(int signal, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, now;
    sigfillset(&action.sa_mask);
    sigaction(signal, &action, NULL);
    sigaction(signal, NULL, &now);
    if (now.sa_handler != handler || now.sa_flags & SA_SIGINFO) {
        fprintf(stderr, "sigaction does not tell what was set\n");
        exit(3);
    }
}

static void wait_for(const char *way, int fd, int epoll)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    struct epoll_event event;
    sigset_t none;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    sigemptyset(&none);
    if (!strcmp(way, "poll"))
        while (poll(&one, 1, -1) < 0 && errno == EINTR) ;
    else if (!strcmp(way, "select"))
        while (select(fd + 1, &set, NULL, NULL, NULL) < 0 && errno == EINTR)
            FD_SET(fd, &set);
    else if (!strcmp(way, "pselect"))
        while (pselect(fd + 1, &set, NULL, NULL, NULL, &none) < 0 && errno == EINTR)
            FD_SET(fd, &set);
    else if (!strcmp(way, "epoll"))
        while (epoll_wait(epoll, &event, 1, -1) < 0 && errno == EINTR) ;
}

static void echo(const char *way, int fd)
{
    static char buffer[65536];
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    for (;;) {
        wait_for(way, fd, epoll);
        ssize_t n = recv(fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        for (ssize_t at = 0; at < n;) {
            ssize_t put = send(fd, buffer + at, n - at, 0);
            if (put < 0 && errno != EINTR)
                exit(4);
            at += put > 0 ? put : 0;
        }
    }
    close(epoll);
}

static void serve_one(void)
{
    char way[32] = "", report[128];
    int fd = accept(listener, NULL, NULL);
    for (size_t at = 0; at + 1 < sizeof way && recv(fd, way + at, 1, 0) == 1 && way[at] != '\n'; at++) ;
    way[strcspn(way, "\n")] = 0;
    told = accept(listener, NULL, NULL);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    calls = ticks = forks = accepted = reaped = 0;
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGALRM);
    sigaddset(&both, SIGCHLD);
    if (!strcmp(way, "pselect"))
        sigprocmask(SIG_BLOCK, &both, NULL);
    struct itimerval often = {{0, 400}, {0, 400}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    echo(way, fd);
    setitimer(ITIMER_REAL, &never, NULL);
    sigprocmask(SIG_UNBLOCK, &both, NULL);
    while (waitpid(-1, NULL, 0) > 0)
        reaped++;
    fcntl(listener, F_SETFL, 0);
    close(told);
    int n = snprintf(report, sizeof report, "%ld %ld %ld %ld", ticks, forks, accepted, reaped);
    send(fd, report, n, 0);
    close(fd);
}

int main(int argc, char **argv)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    int on = 1;
    (void)argc;
    inet_pton(AF_INET, argv[1], &here.sin_addr);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 64))
        return 2;
    handle(SIGALRM, on_alarm);
    handle(SIGCHLD, on_child);
    puts("ready");
    fflush(stdout);
    for (int left = atoi(argv[3]); left > 0; left--)
        serve_one();
    return 0;
}
