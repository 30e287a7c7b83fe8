/* Threads that use sockets all the time while main forks: `PEER PORT CHILDREN`. Each child uses sockets, too, and has 20 s for it. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in peer;
static volatile int over;

static int talk(void)
{
    char got[3];
    int one = 1, n = 0, fd = socket(AF_INET, SOCK_STREAM, 0);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { EPOLLIN, { 0 } };
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&peer, sizeof peer) == 0 && write(fd, "echo\nxyz", 8) == 8) {
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
        epoll_wait(ep, &event, 1, 10000);
        while (n < 3) {
            int m = (int)read(fd, got + n, (size_t)(3 - n));
            if (m <= 0)
                break;
            n += m;
        }
    }
    close(ep);
    close(fd);
    return n == 3 && memcmp(got, "xyz", 3) == 0;
}

static void *talks(void *arg)
{
    (void)arg;
    while (!over)
        talk();
    return NULL;
}

/* Sockets that are made, set and closed again, as fast as it goes. */
static void *opens(void *arg)
{
    struct sockaddr_in any = { .sin_family = AF_INET };
    (void)arg;
    while (!over) {
        int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
        bind(fd, (struct sockaddr *)&any, sizeof any);
        listen(fd, 5);
        close(epoll_create1(0));
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[6];
    int children = atoi(argv[3]), good = 0, status;
    (void)argc;
    peer.sin_family = AF_INET;
    peer.sin_port = htons((unsigned short)atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &peer.sin_addr);
    if (!talk())
        return 2;
    for (int i = 0; i < 6; i++)
        pthread_create(&threads[i], NULL, i % 2 ? talks : opens, NULL);
    for (int i = 0; i < children; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            _exit(talk() ? 0 : 1);
        }
        if (waitpid(child, &status, 0) == child && status == 0)
            good++;
        else
            break; /* each other one may take as long */
    }
    over = 1;
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    printf("%d of %d children\n", good, children);
    return 0;
}
