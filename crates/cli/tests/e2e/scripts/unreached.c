/* A program that no library comes into: a daemon that echoes what one client sends, or one that ends in some way. */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int serve(int listener) {
    char bytes[4096];
    ssize_t n;
    int c = accept(listener, NULL, NULL);
    while ((n = read(c, bytes, sizeof bytes)) > 0)
        if (write(c, bytes, n) != n) return 1;
    return 0;
}

static int daemonize(int port) {
    struct sockaddr_in any;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    memset(&any, 0, sizeof any);
    any.sin_family = AF_INET;
    any.sin_port = htons(port);
    if (bind(s, (struct sockaddr *)&any, sizeof any) || listen(s, 64)) return 1;
    if (fork()) {
        puts("listens");
        return 0;
    }
    setsid();
    close(0);
    close(1);
    close(2);
    return serve(s);
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "daemon")) return daemonize(atoi(argv[2]));
    if (argc > 1 && !strcmp(argv[1], "abort")) abort();
    if (argc > 1 && !strcmp(argv[1], "waits")) {
        printf("%d\n", getpid());
        fflush(stdout);
        pause();
    }
    return argc;
}
