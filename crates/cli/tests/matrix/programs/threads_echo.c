/* An echo server with a thread a connection and standard I/O streams over the socket. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void *serve(void *arg) {
    int fd = (int)(long)arg;
    FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
    char bytes[20000];
    size_t n;
    while ((n = fread(bytes, 1, 1 + rand() % sizeof bytes, in)) > 0)
        if (fwrite(bytes, 1, n, out) != n || fflush(out)) break;
    fclose(out);
    fclose(in);
    return NULL;
}

int main(int argc, char **argv) {
    (void)argc;
    struct sockaddr_in any;
    int yes = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    memset(&any, 0, sizeof any);
    any.sin_family = AF_INET;
    any.sin_port = htons(atoi(argv[1]));
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(s, (struct sockaddr *)&any, sizeof any) || listen(s, 64)) return 1;
    for (;;) {
        int c = accept(s, NULL, NULL);
        pthread_t t;
        if (c < 0 || pthread_create(&t, NULL, serve, (void *)(long)c)) return 1;
        pthread_detach(t);
    }
}
