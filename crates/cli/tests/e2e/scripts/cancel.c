// pthread_cancel(3) of threads that sleep: on a pipe and on the kernel's sockets, on a connection and a listener of a lane. `cancel PEER PORT MINE` prints what must be the
// same on a lane; each thread must run its cleanup handler and be joined as cancelled.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int conn, listener, ends[2], unused[2];
static volatile int sleeps;

static void cleaned(void *what) { printf("%s: cleaned up\n", (const char *)what); }

static void wait_on_pipe(void) { char b; if (read(ends[0], &b, 1)) {} }
static void poll_pipe(void) { struct pollfd f = {ends[0], POLLIN, 0}; poll(&f, 1, -1); }
static void message(void) { char b[8]; struct iovec v = {b, 8}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1}; recvmsg(unused[0], &m, 0); }
static void wait_signal(void) { sigset_t s; sigemptyset(&s); sigaddset(&s, SIGUSR1); sigwaitinfo(&s, NULL); }
static void receive(void) { char b; recv(conn, &b, 1, 0); }
static void poll_both(void) { struct pollfd f[2] = {{conn, POLLIN, 0}, {ends[0], POLLIN, 0}}; poll(f, 2, -1); }
static void wait_select(void) { fd_set s; FD_ZERO(&s); FD_SET(conn, &s); select(conn + 1, &s, NULL, NULL, NULL); }
static void wait_epoll(void) {
    struct epoll_event e = {.events = EPOLLIN};
    int set = epoll_create1(0);
    epoll_ctl(set, EPOLL_CTL_ADD, conn, &e);
    epoll_wait(set, &e, 1, -1);
}
static void take(void) { accept(listener, NULL, NULL); }
static void send_much(void) { static char b[1 << 20]; for (;;) send(conn, b, sizeof b, 0); }

struct work { const char *name; void (*sleep)(void); };
static const struct work all[] = {{"read of a pipe", wait_on_pipe}, {"poll of a pipe", poll_pipe}, {"recvmsg of a kernel's socket", message}, {"sigwaitinfo", wait_signal}, {"recv", receive},
    {"poll", poll_both}, {"select", wait_select}, {"epoll_wait", wait_epoll}, {"accept", take}, {"send", send_much}};

static void *run(void *arg) {
    const struct work *work = arg;
    pthread_cleanup_push(cleaned, (void *)work->name);
    sleeps = gettid();
    work->sleep();
    pthread_cleanup_pop(0);
    return NULL;
}

// Until the thread sleeps in the kernel.
static void until_asleep(void) {
    char path[64], line[256];
    for (int tries = 0; tries < 10000; tries++, usleep(1000)) {
        if (!sleeps) continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", sleeps);
        FILE *file = fopen(path, "r");
        char *read = file ? fgets(line, sizeof line, file) : NULL, state = 0;
        if (file) fclose(file);
        if (read) for (char *at = line; *at; at++) if (at[0] == ')' && at[1] == ' ') state = at[2];
        if (state == 'S') return;
    }
    printf("does not sleep\n");
}

int main(int argc, char **argv) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))}, at = {.sin_family = AF_INET, .sin_port = htons(9102)};
    int on = 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    inet_pton(AF_INET, argv[3], &at.sin_addr);
    conn = socket(AF_INET, SOCK_STREAM, 0);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (pipe(ends) || socketpair(AF_UNIX, SOCK_DGRAM, 0, unused) || connect(conn, (void *)&to, sizeof to) || bind(listener, (void *)&at, sizeof at) || listen(listener, 8)) {
        perror("setup");
        return 1;
    }
    for (size_t n = 0; n < sizeof all / sizeof *all; n++) {
        pthread_t thread;
        void *result = NULL;
        struct timespec limit;
        sleeps = 0;
        pthread_create(&thread, NULL, run, (void *)&all[n]);
        until_asleep();
        pthread_cancel(thread);
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += 20;
        int failed = pthread_timedjoin_np(thread, &result, &limit);
        printf("%s: join %d, %s\n", all[n].name, failed, result == PTHREAD_CANCELED ? "cancelled" : "not cancelled");
        if (failed) return 1;
    }
    printf("goes on: %zd\n", write(ends[1], "x", 1));
    // The peer reads nothing, so nothing would end the connection soon.
    struct linger now = {1, 0};
    setsockopt(conn, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    return argc != 4;
}
