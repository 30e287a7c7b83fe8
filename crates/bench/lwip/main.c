/* Two lwIP instances (one shared object loaded twice) joined by an in-memory wire, in one thread.
 * usage: lwiprig conn CONCURRENT COUNT | rr CONNECTIONS COUNT ACTIVE | bulk MTU BYTES
 * environment: CSUM=off: checksums neither made nor verified; LOST_PPM: packets of a million that the wire loses;
 * ROUNDS: rounds between two calls of lwIP's timer (64).
 * Prints what `corelane-bench one` prints: the CPU time of both ends an operation, ns. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "end.h"

/* A direction of the wire. It loses the same packets, by count, as the wires of the other stacks. */
struct wire { struct fifo queue; uint64_t rng; };
static struct wire there, back;
static struct frame *unused;
static const struct end_ops *client, *server;
static uint64_t lost_ppm;
static int every = 64;
static unsigned rounds;

static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static const struct end_ops *load(const char *path, int copy, int slots, int message) {
    char name[512];
    snprintf(name, sizeof name, "%s.%d", path, copy);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); exit(1); }
    const struct end_ops *(*get)(int, int) = (void *)dlsym(library, "end_get");
    if (!get) { fprintf(stderr, "%s\n", dlerror()); exit(1); }
    return get(slots, message);
}
/* What has arrived so far; the answers go to the other direction. */
static int drain(struct wire *wire, const struct end_ops *end) {
    struct frame *f = wire->queue.head;
    int any = f != 0;
    wire->queue.head = wire->queue.tail = 0;
    while (f) {
        struct frame *next = f->next;
        if (lost_ppm && (uint64_t)(((__uint128_t)next_random(&wire->rng) * 1000000) >> 64) < lost_ppm) { f->next = unused; unused = f; }
        else end->input(f);
        f = next;
    }
    return any;
}
static void step(void) {
    int any = drain(&there, server) | drain(&back, client);
    /* Nothing on the wire: something was lost and is waited for, so time goes faster. */
    if (!any || ++rounds % every == 0) { client->timers(); server->timers(); }
}
static int next_port(int port) { return port >= 61024 ? 1024 : port + 1; }

static void connections(long concurrent, uint64_t count, double *start, uint64_t *done) {
    int port = 1024;
    client->open(0, 2, 80, port, 0);            /* so that each knows the other's address */
    while (!client->idle(0)) step();
    uint64_t before = client->done();
    *start = cpu_seconds();
    for (long i = 0; i < concurrent; i++) client->open(i, 2, 80, port = next_port(port), 0);
    for (;;) {
        step();
        *done = client->done() - before;
        if (*done >= count) return;
        for (long i = 0; i < concurrent; i++)
            if (client->idle(i)) client->open(i, 2, 80, port = next_port(port), 0);
    }
}
static long exchanges(long n, uint64_t count, long active, long first, uint64_t *done) {
    uint64_t before = client->done();
    *done = 0;
    while (*done < count) {
        for (long j = 0; j < active; j++) client->request((first + j) % n);
        first = (first + active) % n;
        uint64_t until = *done + active;
        while (*done < until) { step(); *done = client->done() - before; }
    }
    return first;
}
static void requests(long n, uint64_t count, long active, double *start, uint64_t *done) {
    int port = 1024;
    for (long i = 0; i < n; i++) {
        client->open(i, 2, 80, port++, 1);
        if (i == 0 || i % 64 == 63) for (int j = 0; j < 8; j++) step();
    }
    while (client->opened() != n) step();
    /* What is touched for the first time, at the first exchanges of each connection, does not count: WARM_ROUNDS of the other rigs. */
    long first = exchanges(n, 2 * n, active, 0, done);
    *start = cpu_seconds();
    exchanges(n, count, active, first, done);
}
int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "lwiprig conn|rr|bulk N COUNT [ACTIVE]\n"); return 2; }
    const char *work = argv[1];
    long n = atol(argv[2]);
    uint64_t count = strtoull(argv[3], 0, 10), done = 0;
    int bulk = !strcmp(work, "bulk"), mtu = bulk ? n : 1500;
    int checksums = !(getenv("CSUM") && !strcmp(getenv("CSUM"), "off"));
    if (getenv("LOST_PPM")) lost_ppm = strtoull(getenv("LOST_PPM"), 0, 10);
    if (getenv("ROUNDS")) every = atoi(getenv("ROUNDS"));
    char dir[400];
    ssize_t k = readlink("/proc/self/exe", dir, sizeof dir - 40);
    if (k < 0) { perror("/proc/self/exe"); return 1; }
    dir[k] = 0;
    *strrchr(dir, '/') = 0;
    strcat(dir, mtu > 1500 ? "/liblwend-jumbo.so" : "/liblwend.so");
    there.rng = back.rng = 23;
    client = load(dir, 1, bulk ? 1 : n, 64);
    server = load(dir, 2, 1, 64);
    client->init(1, checksums, mtu, &there.queue, &unused);
    server->init(2, checksums, mtu, &back.queue, &unused);
    server->listen(80, bulk);
    double start;
    if (!strcmp(work, "conn")) connections(n, count, &start, &done);
    else if (!strcmp(work, "rr")) requests(n, count, argc > 4 ? atol(argv[4]) : n, &start, &done);
    else {
        client->bulk_target(count);
        start = cpu_seconds();
        client->open(0, 2, 80, 1024, 2);
        while ((done = server->bytes()) < count) { step(); client->bulk_push(); }
    }
    printf("{\"Done\":{\"value\":%.4f}}\n", (cpu_seconds() - start) * 1e9 / done);
    return 0;
}
