/* Short connections of programs that never sleep: `serve|ask PORT ADDRESS FILE`. Each says its number, and waits for the file before it begins.
 * getppid marks in a record of system calls where the connections that count begin and end; those before are to warm up. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WARM = 300, COUNTED = 1000 };

static struct sockaddr_in end;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void mark(int round)
{
    if (round == WARM || round == WARM + COUNTED)
        syscall(SYS_getppid);
}

/* Spins until `fd` has what `ep` was told to wait for. */
static void await(int ep, int fd)
{
    struct epoll_event event = { 0 };
    while (event.data.fd != fd)
        if (epoll_wait(ep, &event, 1, 0) < 0)
            fail("epoll_wait");
}

static void add(int ep, int fd, unsigned events)
{
    struct epoll_event event = { events, { .fd = fd } };
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static int accepted(int ep, int listener)
{
    int fd;
    await(ep, listener);
    if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0)
        fail("accept4");
    return fd;
}

static int connected(int ep)
{
    int one = 1, error = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof error;
    struct epoll_event reads = { EPOLLIN, { .fd = fd } };
    setsockopt(fd, IPPROTO_TCP, 1, &one, sizeof one);
    connect(fd, (struct sockaddr *)&end, sizeof end);
    add(ep, fd, EPOLLOUT);
    await(ep, fd);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) || error)
        fail("connect");
    if (epoll_ctl(ep, EPOLL_CTL_MOD, fd, &reads))
        fail("epoll_ctl");
    return fd;
}

/* Until there is a file `name`: by then the record has begun. */
static void wait_for(const char *name)
{
    struct stat found;
    while (stat(name, &found))
        usleep(1000);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;

    int serves = strcmp(argv[1], "serve") == 0, one = 1, listener = -1, ep = epoll_create1(EPOLL_CLOEXEC);
    char byte = 'x';
    end.sin_family = AF_INET;
    end.sin_port = htons((unsigned short)atoi(argv[2]));
    end.sin_addr.s_addr = inet_addr(argv[3]);
    if (serves) {
        listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listener, (struct sockaddr *)&end, sizeof end) || listen(listener, 64))
            fail("listen");
        add(ep, listener, EPOLLIN);
        /* The first wait takes the lane. */
        epoll_wait(ep, &(struct epoll_event){ 0 }, 1, 0);
    }
    printf("running %d\n", (int)getpid());
    fflush(stdout);
    wait_for(argv[4]);
    for (int round = 0; round <= WARM + COUNTED; round++) {
        int fd;
        mark(round);
        fd = serves ? accepted(ep, listener) : connected(ep);
        if (serves)
            add(ep, fd, EPOLLIN);
        else if (send(fd, &byte, 1, 0) != 1)
            fail("send");
        await(ep, fd);
        if (recv(fd, &byte, 1, 0) != 1 || (serves && send(fd, &byte, 1, 0) != 1))
            fail("recv");
        close(fd);
    }
    printf("counted %d\n", COUNTED);
    return 0;
}
