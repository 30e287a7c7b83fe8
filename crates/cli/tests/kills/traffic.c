// Server and client of the kill campaign. Processes are cheap to start, so that they can be killed all the time; each byte is checked.
//
//   traffic serve ADDR PORT WORKERS FILE     a master and workers that accept on its listener; every third worker has a thread a connection
//   traffic ask ADDR PORT WORKERS FILE CONNS [strict|wire]   a master and workers with CONNS connections each
//
// A request is {magic, seed, bytes up, bytes down} and the bytes; the answer is the same header and its bytes. FILE is shared with the
// campaign: counters that outlive the processes. What must never happen is printed in a line that begins with BAD.
// SIGUSR1 to a client: open nothing more, wait until the server has ended every connection, and exit.
// SIGUSR2: close everything and exit.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAGIC = 0x4b494c4c, WORKERS_MAX = 16, CHUNK = 16384, BULK = 400000, KINDS = 4 };
// Longest silence of a connection that has to say something. A peer on the kernel sends again after 1, 3, 7 s.
#define SILENCE_US 20000000ull
// A client says something at least this often.
#define PAUSE_US 300000u

struct shared {
    _Atomic uint64_t answered;             // requests that were answered in full
    _Atomic uint64_t cut;                  // connections that ended before their time
    _Atomic uint64_t worst_us;             // longest time between two bytes of a request
    _Atomic uint64_t opened;               // connections
    _Atomic uint64_t refused;              // connections that were refused over a wire
    _Atomic uint64_t open[WORKERS_MAX];    // connections that are open now, by worker
    _Atomic uint64_t turns[WORKERS_MAX];   // a worker says that it is at work
    _Atomic uint64_t drains[WORKERS_MAX];  // a client opens nothing more
};
struct head { uint32_t magic, seed, up, down; };

static struct shared *shared;
static unsigned me;
static atomic_int draining, leaving;

static uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000u + (uint64_t)at.tv_nsec / 1000u;
}

static void bad(const char *form, ...) {
    char line[400] = "BAD ";
    va_list args;
    va_start(args, form);
    size_t used = 4 + (size_t)vsnprintf(line + 4, sizeof line - 6, form, args);
    va_end(args);
    if (used > sizeof line - 2) used = sizeof line - 2;
    line[used++] = '\n';
    // One write, so that lines of processes do not mix.
    if (write(STDOUT_FILENO, line, used) < 0) _exit(4);
}

static uint8_t pattern(uint32_t seed, uint32_t at) { return (uint8_t)((seed ^ (at * 0x9e3779b1u)) >> 23); }

static void fill(uint8_t *to, size_t n, uint32_t seed, uint32_t at) {
    for (size_t i = 0; i < n; i++) to[i] = pattern(seed, at + (uint32_t)i);
}

static int right(const uint8_t *bytes, size_t n, uint32_t seed, uint32_t at) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != pattern(seed, at + (uint32_t)i)) return 0;
    return 1;
}

// One end of a connection. The server reads `up` and writes `down`; the client the other way round.
struct conn {
    int fd;
    int is_client, connecting, busy, kind;
    struct head head;
    uint8_t raw[sizeof(struct head)];
    uint32_t head_got, head_put, got, put;
    uint32_t requests_left;
    uint64_t last_us, next_us;
    unsigned port;
};

enum outcome { WAITS, MORE, ENDED, WRONG };

static enum outcome lost(void) { return errno == EAGAIN || errno == EINTR ? WAITS : ENDED; }

static enum outcome take(struct conn *c, uint32_t total, uint32_t seed) {
    uint8_t bytes[CHUNK];
    if (c->head_got < sizeof c->raw) {
        ssize_t n = recv(c->fd, c->raw + c->head_got, sizeof c->raw - c->head_got, 0);
        if (n <= 0) return n == 0 ? ENDED : lost();
        c->head_got += (uint32_t)n;
        return MORE;
    }
    if (c->got >= total) return WAITS;
    uint32_t left = total - c->got;
    ssize_t n = recv(c->fd, bytes, left < CHUNK ? left : CHUNK, 0);
    if (n <= 0) return n == 0 ? ENDED : lost();
    if (!right(bytes, (size_t)n, seed, c->got)) return WRONG;
    c->got += (uint32_t)n;
    return MORE;
}

static enum outcome give(struct conn *c, uint32_t total, uint32_t seed) {
    uint8_t bytes[CHUNK];
    if (c->head_put < sizeof c->head) {
        ssize_t n = send(c->fd, (uint8_t *)&c->head + c->head_put, sizeof c->head - c->head_put, MSG_NOSIGNAL | (total ? MSG_MORE : 0));
        if (n < 0) return lost();
        c->head_put += (uint32_t)n;
        return MORE;
    }
    if (c->put >= total) return WAITS;
    size_t n = total - c->put < CHUNK ? total - c->put : CHUNK;
    fill(bytes, n, seed, c->put);
    ssize_t sent = send(c->fd, bytes, n, MSG_NOSIGNAL);
    if (sent < 0) return lost();
    c->put += (uint32_t)sent;
    return MORE;
}

static void restart(struct conn *c) { c->head_got = c->head_put = c->got = c->put = 0; }

// ---- server

// As far as it goes now.
static enum outcome serve_conn(struct conn *c) {
    for (;;) {
        enum outcome o;
        if (c->head_got < sizeof c->raw || c->got < c->head.up) {
            o = take(c, c->head.up, c->head.seed);
            if (o == MORE && c->head_got == sizeof c->raw) {
                memcpy(&c->head, c->raw, sizeof c->head);
                if (c->head.magic != MAGIC || c->head.up > BULK || c->head.down > BULK) return WRONG;
            }
        } else {
            o = give(c, c->head.down, c->head.seed + 1);
            if (c->head_put == sizeof c->head && c->put == c->head.down) {
                restart(c);
                c->head.up = 0;
            }
        }
        if (o != MORE) return o;
        c->last_us = now_us();
    }
}

static void wrong(const struct conn *c) {
    bad("%s: wrong bytes: port %u, seed %u, at %u up %u down %u got %u put %u", c->is_client ? "client" : "server", c->port, c->head.seed,
        c->head_got, c->head.up, c->head.down, c->got, c->put);
}

static void silent(const struct conn *c) {
    bad("%s: silence: port %u, connecting %d, busy %d, kind %d, head %u/%u, up %u down %u got %u put %u, draining %d", c->is_client ? "client" : "server",
        c->port, c->connecting, c->busy, c->kind, c->head_got, c->head_put, c->head.up, c->head.down, c->got, c->put, draining);
}

static unsigned remote_port(int fd) {
    struct sockaddr_in name = {0};
    socklen_t len = sizeof name;
    getpeername(fd, (struct sockaddr *)&name, &len);
    return ntohs(name.sin_port);
}

static void *serve_alone(void *arg) {
    struct conn c = {.fd = (int)(intptr_t)arg};
    c.port = remote_port(c.fd);
    struct timeval limit = {SILENCE_US / 1000000, 0};
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    enum outcome o = serve_conn(&c);
    if (o == WRONG) wrong(&c);
    if (o == WAITS && errno == EAGAIN) silent(&c);
    close(c.fd);
    shared->open[me]--;
    return NULL;
}

static void serve_threads(int listener) {
    for (;;) {
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        poll(&ready, 1, 1000);
        shared->turns[me]++;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        shared->open[me]++;
        pthread_t thread;
        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 65536 * 2);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        if (pthread_create(&thread, &attr, serve_alone, (void *)(intptr_t)fd)) _exit(3);
    }
}

static void serve_epoll(int listener) {
    static struct conn conns[1024];
    struct epoll_event events[64], want = {.events = EPOLLIN, .data.ptr = NULL};
    int set = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &want);
    uint64_t looked = now_us();
    for (;;) {
        int n = epoll_wait(set, events, 64, 1000);
        shared->turns[me]++;
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                if (fd >= 1024) { bad("server: descriptor %d: connections are not given back", fd); _exit(3); }
                c = &conns[fd];
                memset(c, 0, sizeof *c);
                c->fd = fd;
                c->port = remote_port(fd);
                c->last_us = now_us();
                want = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
                epoll_ctl(set, EPOLL_CTL_ADD, fd, &want);
                shared->open[me]++;
            }
            enum outcome o = serve_conn(c);
            if (o == WRONG) wrong(c);
            if (o == ENDED || o == WRONG) { close(c->fd); c->fd = 0; shared->open[me]--; }
        }
        uint64_t at = now_us();
        if (at - looked < 1000000) continue;
        looked = at;
        for (int fd = 0; fd < 1024; fd++)
            if (conns[fd].fd && at > conns[fd].last_us + SILENCE_US) {
                silent(&conns[fd]);
                conns[fd].last_us = at;
            }
    }
}

// ---- client

static uint64_t random_state;
static uint32_t any(uint32_t below) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((random_state >> 33) % below);
}

static const char *address;
static int port_number, strict, by_wire;

static void begin_request(struct conn *c) {
    restart(c);
    c->busy = 1;
    c->head = (struct head){MAGIC, any(1u << 30), c->kind == 2 ? any(BULK) : any(300), c->kind == 3 ? any(BULK) : any(3000)};
    c->last_us = now_us();
}

static void begin(struct conn *c, int set) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port_number)}, name = {0};
    inet_pton(AF_INET, address, &to.sin_addr);
    memset(c, 0, sizeof *c);
    c->is_client = 1;
    // Kinds: 0 one request, 1 many small ones, 2 long requests, 3 long answers.
    c->kind = (int)any(KINDS);
    c->requests_left = c->kind == 0 ? 1 : c->kind == 1 ? 200 : 5;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { bad("client: socket: %s", strerror(errno)); _exit(3); }
    c->connecting = 1;
    int failed = connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS;
    if (failed && !draining) bad("client: connect: %s", strerror(errno));
    socklen_t len = sizeof name;
    getsockname(c->fd, (struct sockaddr *)&name, &len);
    c->port = ntohs(name.sin_port);
    shared->opened++;
    begin_request(c);
    struct epoll_event want = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    epoll_ctl(set, EPOLL_CTL_ADD, c->fd, &want);
}

static void over(struct conn *c, const char *why) {
    if (why) {
        shared->cut++;
        if (strict && !leaving) bad("client: %s: port %u, kind %d, busy %d, got %u/%u", why, c->port, c->kind, c->busy, c->got, c->head.down);
    }
    close(c->fd);
    c->fd = 0;
}

static void progress(struct conn *c) {
    uint64_t at = now_us(), gap = at - c->last_us, worst = shared->worst_us;
    while (gap > worst && !atomic_compare_exchange_weak(&shared->worst_us, &worst, gap)) {}
    c->last_us = at;
}

static void ask_conn(struct conn *c) {
    if (c->connecting) {
        int error = 0;
        socklen_t len = sizeof error;
        struct sockaddr_in name;
        socklen_t name_len = sizeof name;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error) {
            // A server whose listener is open refuses nobody; but over a wire its lane answers, and that may be gone already.
            if (error == ECONNREFUSED && by_wire) shared->refused++;
            else if (error != ECONNRESET && !draining) bad("client: connect: %s: port %u", strerror(error), c->port);
            over(c, "connect");
            return;
        }
        if (getpeername(c->fd, (struct sockaddr *)&name, &name_len)) return;
        c->connecting = 0;
        progress(c);
    }
    for (;;) {
        enum outcome out = WAITS, in;
        if (c->busy) {
            out = give(c, c->head.up, c->head.seed);
            if (out == MORE) progress(c);
        }
        struct head sent = c->head;
        in = take(c, c->busy ? c->head.down : 0, c->head.seed + 1);
        if (in == MORE) {
            progress(c);
            if (c->head_got == sizeof c->raw && memcmp(c->raw, &sent, sizeof sent)) in = WRONG;
        }
        if (in == WRONG) { wrong(c); over(c, "wrong"); return; }
        if (out == ENDED || in == ENDED) { over(c, "ended"); return; }
        if (c->busy && c->head_got == sizeof c->raw && c->got == c->head.down && c->put == c->head.up && c->head_put == sizeof c->head) {
            shared->answered++;
            c->busy = 0;
            restart(c);
            c->last_us = now_us();
            if (--c->requests_left == 0 && !draining) { over(c, NULL); return; }
            // Of the last ones some say nothing more: those have to hear of the end, too.
            if (draining && c->kind == 1) continue;
            if (draining || any(8)) begin_request(c);
            else c->next_us = c->last_us + any(PAUSE_US);
            continue;
        }
        if (out == WAITS && in == WAITS) return;
    }
}

static void on_signal(int number) {
    if (number == SIGUSR1) draining = 1;
    else leaving = 1;
}

static int look_at(struct conn *c, int set, uint64_t at) {
    if (!c->fd && !draining) begin(c, set);
    if (!c->fd) return 0;
    if ((c->busy || draining) && at > c->last_us + SILENCE_US) {
        silent(c);
        over(c, NULL);
    } else if (!c->busy && !draining && c->next_us <= at) {
        begin_request(c);
        ask_conn(c);
    }
    return c->fd != 0;
}

static int ask(int conns_max) {
    static struct conn conns[256];
    struct epoll_event events[64];
    int set = epoll_create1(EPOLL_CLOEXEC);
    random_state = (uint64_t)getpid() * 2654435761u + now_us();
    int was_draining = 0;
    while (!leaving) {
        int open = 0;
        uint64_t at = now_us();
        if (draining && !was_draining)
            // From here on everybody waits for the end.
            for (int i = 0; i < conns_max; i++) conns[i].last_us = at;
        shared->drains[me] = (uint64_t)(was_draining = draining);
        for (int i = 0; i < conns_max; i++) open += look_at(&conns[i], set, at);
        shared->open[me] = (uint64_t)open;
        if (draining && !open) return 0;
        int n = epoll_wait(set, events, 64, 5);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c->fd) ask_conn(c);
        }
        shared->turns[me]++;
    }
    return 0;
}

// ---- master

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    int is_server = !strcmp(argv[1], "serve"), workers = atoi(argv[4]), listener = -1;
    address = argv[2];
    port_number = atoi(argv[3]);
    int file = open(argv[5], O_RDWR);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || shared == MAP_FAILED || workers > WORKERS_MAX) return 2;
    close(file);
    strict = argc > 7 && !strcmp(argv[7], "strict");
    by_wire = argc > 7 && !strcmp(argv[7], "wire");
    pid_t pids[WORKERS_MAX] = {0};
    struct sigaction action = {.sa_handler = on_signal};
    if (!is_server) {
        sigaction(SIGUSR1, &action, NULL);
        sigaction(SIGUSR2, &action, NULL);
    } else {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port_number)};
        int on = 1;
        inet_pton(AF_INET, address, &at.sin_addr);
        listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 512)) { bad("server: listen: %s", strerror(errno)); return 3; }
    }
    pid_t master = getpid();
    for (;;) {
        for (int i = 0; i < workers; i++) {
            if (pids[i] || draining || leaving) continue;
            shared->open[i] = shared->drains[i] = 0;
            pids[i] = fork();
            if (pids[i]) continue;
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != master) _exit(0);
            me = (unsigned)i;
            if (!is_server) _exit(ask(atoi(argv[6])));
            if (i % 3 == 2) serve_threads(listener);
            serve_epoll(listener);
        }
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        int left = 0;
        for (int i = 0; i < workers; i++) {
            if (pids[i] == pid) {
                pids[i] = 0;
                int expected = WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0;
                if (!expected) bad("%s: a worker ended: status %x", argv[1], status);
            }
            left += pids[i] != 0;
        }
        if (!left && (draining || leaving)) return 0;
    }
}
