/*
 * The sandbox of all threads.
 *
 * Landlock restricts only the thread that asks for it and those that it starts later.  A process that has threads
 * already must have each of them ask: a signal makes them do it.  The handler stays installed, because a signal may
 * arrive late; without a ruleset it does nothing.
 */
#include "api.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 4096, PAUSES = 20000, PAUSE_NS = 50000 }; /* at most a second for one thread */

static _Atomic int ruleset_fd = -1, num_confined, first_error;

static void confine_self(void) {
    int ruleset = atomic_load(&ruleset_fd);
    if (ruleset < 0) {
        return;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, ruleset, 0)) {
        atomic_store(&first_error, errno);
    }
    atomic_fetch_add(&num_confined, 1);
}

static void on_signal(int number) {
    (void)number;
    int saved = errno;
    confine_self();
    errno = saved;
}

static bool is_in(const pid_t *threads, unsigned num_threads, pid_t thread) {
    for (unsigned k = 0; k < num_threads; k++) {
        if (threads[k] == thread) {
            return true;
        }
    }
    return false;
}

/* Signal one thread, and wait until it is confined or has ended. */
static void confine_other(pid_t process, pid_t thread, int signal_number) {
    int before = atomic_load(&num_confined);
    if (syscall(SYS_tgkill, process, thread, signal_number)) {
        return; /* it has ended */
    }
    for (unsigned k = 0; atomic_load(&num_confined) == before; k++) {
        if (k == PAUSES) {
            atomic_store(&first_error, EBUSY);
            return;
        }
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        if (syscall(SYS_tgkill, process, thread, 0)) {
            return;
        }
    }
}

/* Confine all threads but this one: those that are found in a pass may have started others before their turn. */
static void confine_others(DIR *tasks, int signal_number) {
    static pid_t done[MAX_THREADS];
    unsigned num_done = 0, num_before;
    pid_t process = getpid(), self = (pid_t)syscall(SYS_gettid);
    do {
        num_before = num_done;
        rewinddir(tasks);
        for (struct dirent *entry; (entry = readdir(tasks));) {
            pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);
            if (thread <= 0 || thread == self || is_in(done, num_done, thread)) {
                continue;
            }
            if (num_done == MAX_THREADS) {
                atomic_store(&first_error, EAGAIN);
                return;
            }
            done[num_done++] = thread;
            confine_other(process, thread, signal_number);
        }
    } while (num_done > num_before);
}

int core_confine_threads(int ruleset) {
    int signal_number = SIGRTMAX - 1;
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) {
        return -1;
    }
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(signal_number, &action, NULL);
    atomic_store(&first_error, 0);
    atomic_store(&ruleset_fd, ruleset);
    confine_others(tasks, signal_number);
    closedir(tasks);
    confine_self(); /* last: a confined thread may not signal the others */
    atomic_store(&ruleset_fd, -1);
    errno = atomic_load(&first_error);
    return errno ? -1 : 0;
}
