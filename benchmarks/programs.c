/* What one thing costs in a guest: programs KIND COUNT. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COPIED = 4 << 20, FAULTED = 4 << 20, PAGE = 4096, THREADS = 2 };

static void copy(long count) {
    char *from = malloc(COPIED), *to = malloc(COPIED);
    memset(from, 1, COPIED);
    for (long n = 0; n < count; n++) {
        memcpy(to, from, COPIED);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
}

static void call(long count) {
    for (long n = 0; n < count; n++) {
        syscall(SYS_getpid);
    }
}

static void switch_context(long count) {
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back)) {
        exit(1);
    }
    if (fork() == 0) {
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) {
        }
        _exit(0);
    }
    for (long n = 0; n < count; n++) {
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) {
            exit(1);
        }
    }
}

static void execute(long count) {
    for (long n = 0; n < count; n++) {
        if (fork() == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(1);
        }
        wait(NULL);
    }
}

static void fault(long count) {
    for (long n = 0; n < count; n += FAULTED / PAGE) {
        char *pages = mmap(NULL, FAULTED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (long at = 0; at < FAULTED; at += PAGE) {
            pages[at] = 1;
        }
        munmap(pages, FAULTED);
    }
}

static void *compute(void *count) {
    volatile unsigned long sum = 0;
    for (long n = 0; n < *(long *)count; n++) {
        sum = sum * 31 + (unsigned long)n;
    }
    return NULL;
}

static void compute_apart(long count) {
    pthread_t threads[THREADS];
    for (int n = 0; n < THREADS; n++) {
        pthread_create(&threads[n], NULL, compute, &count);
    }
    for (int n = 0; n < THREADS; n++) {
        pthread_join(threads[n], NULL);
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(long count);
    } kinds[] = {{"memcpy", copy},  {"getpid", call},      {"pipe", switch_context},
                 {"exec", execute}, {"page-fault", fault}, {"threads", compute_apart}};
    for (unsigned n = 0; argc == 3 && n < sizeof kinds / sizeof kinds[0]; n++) {
        if (strcmp(argv[1], kinds[n].name) == 0) {
            kinds[n].run(atol(argv[2]));
            return 0;
        }
    }
    return 2;
}
