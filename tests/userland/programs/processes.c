/* fork, exec, wait, pipes, shared memory and signals between processes. */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

extern char **environ;

static int status_of(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

static void exits(void) {
    for (int code = 0; code < 256; code += 85) {
        pid_t child = fork();
        if (child == 0) {
            _exit(code);
        }
        int status = status_of(child);
        printf("exit %d: %d %d\n", code, WIFEXITED(status), WEXITSTATUS(status));
    }
    static const int numbers[] = {SIGKILL, SIGSEGV, SIGABRT};
    for (unsigned k = 0; k < 3; k++) {
        pid_t child = fork();
        if (child == 0) {
            raise(numbers[k]);
            _exit(1);
        }
        int status = status_of(child);
        printf("signal %d: %d %d\n", numbers[k], WIFSIGNALED(status), WTERMSIG(status));
    }
}

/* A ring of processes that each add to a number. */
static void ring(void) {
    enum { PROCESSES = 5, LAPS = 20 };
    int pipes[PROCESSES][2];
    for (unsigned k = 0; k < PROCESSES; k++) {
        if (pipe(pipes[k])) {
            exit(1);
        }
    }
    for (unsigned k = 1; k < PROCESSES; k++) {
        if (fork() == 0) {
            uint64_t value;
            for (unsigned lap = 0; lap < LAPS && read(pipes[k][0], &value, 8) == 8; lap++) {
                value = value * 31 + k;
                write(pipes[(k + 1) % PROCESSES][1], &value, 8);
            }
            _exit(0);
        }
    }
    uint64_t value = 1;
    for (unsigned lap = 0; lap < LAPS; lap++) {
        write(pipes[1][1], &value, 8);
        read(pipes[0][0], &value, 8);
    }
    for (unsigned k = 1; k < PROCESSES; k++) {
        wait(NULL);
    }
    show_sum("ring", value);
}

/* Copy on write: each process sees its own changes, but those to shared memory. */
static void memory(void) {
    enum { PAGES = 64, PAGE = 4096 };
    uint8_t *private = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    atomic_uint *counter = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(private, 7, PAGES * PAGE);
    for (unsigned child = 0; child < 4; child++) {
        if (fork() == 0) {
            for (unsigned k = 0; k < PAGES; k += child + 1) {
                private[k * PAGE + child] = (uint8_t)child;
            }
            for (unsigned k = 0; k < 5000; k++) {
                atomic_fetch_add(counter, 1);
            }
            _exit((int)(add_bytes(SUM_START, private, PAGES * PAGE) % 251));
        }
    }
    unsigned sum = 0;
    for (int status; wait(&status) > 0;) {
        sum += (unsigned)WEXITSTATUS(status);
    }
    printf("shared %u, children %u, own %016" PRIx64 "\n", *counter, sum, add_bytes(SUM_START, private, PAGES * PAGE));
}

/* Where programs need one to run them, as under QEMU, RUNNER names it. */
static void execute(char *const arguments[], char *const environment[]) {
    int out[2];
    if (pipe(out)) {
        exit(1);
    }
    pid_t child = fork();
    if (child == 0) {
        dup2(out[1], 1);
        close(out[0]);
        char *runner = getenv("RUNNER");
        char *const run[] = {runner, arguments[0], arguments[1], arguments[2], NULL};
        execve(run[runner ? 0 : 1], runner ? run : arguments, environment);
        _exit(127);
    }
    close(out[1]);
    char text[256];
    ssize_t size, total = 0;
    while ((size = read(out[0], text + total, sizeof text - 1 - (size_t)total)) > 0) {
        total += size;
    }
    text[total] = 0;
    close(out[0]);
    printf("executed: %d [%s]\n", WEXITSTATUS(status_of(child)), text);
}

static int child_main(int count, char **arguments) {
    printf("%d", count);
    for (int k = 1; k < count; k++) {
        printf(" %s", arguments[k]);
    }
    printf(" %s", environ[0]);
    fflush(stdout);
    return count;
}

static volatile sig_atomic_t children;

static void on_child(int number) {
    (void)number;
    children++;
}

int main(int count, char **arguments) {
    if (count > 1) {
        return child_main(count, arguments);
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    signal(SIGCHLD, on_child);
    exits();
    printf("SIGCHLD seen %d\n", children > 0);
    ring();
    memory();
    execute((char *[]){arguments[0], "one", "two words", NULL}, (char *[]){"PLACE=here", NULL});
    return 0;
}
