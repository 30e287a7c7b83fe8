/* A handler that notes what a signal says, for signals.py. */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct note { int signal, code, fd, tid; long band; };
struct note notes[256];
volatile int noted;

static void arrived(int signal, siginfo_t *info, void *context)
{
    int at = __atomic_fetch_add(&noted, 1, __ATOMIC_SEQ_CST);
    (void)context;
    if (at < 256)
        notes[at] = (struct note){ signal, info->si_code, info->si_fd, (int)syscall(SYS_gettid), info->si_band };
}

int watch(int signal)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = arrived;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    return sigaction(signal, &action, NULL);
}

int await(int signal, struct note *note)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, signal);
    struct timespec limit = { 10, 0 };
    int got = sigtimedwait(&set, &info, &limit);
    *note = (struct note){ got, info.si_code, info.si_fd, 0, info.si_band };
    return got;
}
