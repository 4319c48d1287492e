/* pthreads: mutexes, condition variables, barriers, once, thread-local storage, and C11 atomics of every size. */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 3000 };

static void run(void *(*body)(void *)) {
    pthread_t threads[THREADS];
    for (uintptr_t k = 0; k < THREADS; k++) {
        pthread_create(&threads[k], NULL, body, (void *)k);
    }
    for (unsigned k = 0; k < THREADS; k++) {
        pthread_join(threads[k], NULL);
    }
}

/* ---- locks ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_spinlock_t spin;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static unsigned long under_mutex, under_spin, under_rwlock, torn;
static _Thread_local unsigned long mine;
static atomic_ulong all_mine;

static void *locker(void *argument) {
    (void)argument;
    for (unsigned k = 0; k < ROUNDS; k++) {
        pthread_mutex_lock(&mutex);
        under_mutex++;
        pthread_mutex_unlock(&mutex);
        pthread_spin_lock(&spin);
        under_spin++;
        pthread_spin_unlock(&spin);
        if (k % 4 == 0) {
            pthread_rwlock_wrlock(&rwlock);
            under_rwlock++;
            pthread_rwlock_unlock(&rwlock);
        } else {
            pthread_rwlock_rdlock(&rwlock);
            torn += under_rwlock > THREADS * ROUNDS;
            pthread_rwlock_unlock(&rwlock);
        }
        mine++;
    }
    atomic_fetch_add(&all_mine, mine);
    return NULL;
}

/* ---- a bounded queue: two producers, two consumers ---- */

enum { QUEUE = 8, ITEMS = 2000 };
static unsigned queue[QUEUE], head, tail;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER, not_empty = PTHREAD_COND_INITIALIZER;
static unsigned long consumed;

static void *producer_or_consumer(void *argument) {
    bool produces = (uintptr_t)argument % 2;
    for (unsigned k = 1; k <= ITEMS; k++) {
        pthread_mutex_lock(&mutex);
        while (produces ? head - tail == QUEUE : head == tail) {
            pthread_cond_wait(produces ? &not_full : &not_empty, &mutex);
        }
        if (produces) {
            queue[head++ % QUEUE] = k;
        } else {
            consumed += queue[tail++ % QUEUE];
        }
        pthread_cond_signal(produces ? &not_empty : &not_full);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

/* ---- barriers, once, semaphores ---- */

static pthread_barrier_t barrier;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static sem_t semaphore;
static unsigned initialised, phase[THREADS];
static atomic_uint out_of_step;

static void initialise(void) {
    initialised++;
}

static void *stepper(void *argument) {
    uintptr_t me = (uintptr_t)argument;
    pthread_once(&once, initialise);
    for (unsigned k = 0; k < 100; k++) {
        phase[me] = k;
        pthread_barrier_wait(&barrier);
        for (unsigned other = 0; other < THREADS; other++) {
            out_of_step += phase[other] != k;
        }
        pthread_barrier_wait(&barrier);
        sem_wait(&semaphore);
        sem_post(&semaphore);
    }
    return NULL;
}

/* ---- atomics: every operation, as LL/SC (v8.0) and as LSE (v8.1) ---- */

__extension__ typedef unsigned __int128 u128;
static struct {
    _Alignas(16) atomic_uchar b;
    atomic_ushort h;
    atomic_uint w, max, min, bits, taken;
    atomic_ulong x, swapped;
    _Alignas(16) _Atomic u128 q;
} shared;
static unsigned long swap_sum;

#define ATOMICS_BODY                                                                                                  \
    {                                                                                                                 \
        uintptr_t me = (uintptr_t)argument;                                                                           \
        unsigned long received = 0;                                                                                   \
        for (unsigned k = 0; k < ROUNDS; k++) {                                                                       \
            atomic_fetch_add(&shared.b, 3);                                                                           \
            atomic_fetch_sub_explicit(&shared.h, 5, memory_order_relaxed);                                            \
            atomic_fetch_add_explicit(&shared.w, k, memory_order_acq_rel);                                            \
            atomic_fetch_xor(&shared.bits, 1u << (k + me) % 32);                                                      \
            atomic_fetch_or_explicit(&shared.taken, 1u << k % 31, memory_order_release);                              \
            received += atomic_exchange(&shared.swapped, k * THREADS + me);                                           \
            unsigned long old = atomic_load_explicit(&shared.x, memory_order_acquire);                                \
            while (!atomic_compare_exchange_weak(&shared.x, &old, old * 3 + 1 - (old * 2))) {                         \
            }                                                                                                         \
            unsigned seen = atomic_load(&shared.max), value = (unsigned)(k * 7919 + me * 104729) % 65521;             \
            while (seen < value && !atomic_compare_exchange_strong(&shared.max, &seen, value)) {                      \
            }                                                                                                         \
            u128 wide = atomic_load(&shared.q);                                                                       \
            while (!atomic_compare_exchange_weak(&shared.q, &wide, wide + (((u128)k << 64) | (me + 1)))) {            \
            }                                                                                                         \
        }                                                                                                             \
        __atomic_fetch_add(&swap_sum, received, __ATOMIC_RELAXED);                                                    \
        return NULL;                                                                                                  \
    }

static void *exclusives(void *argument) ATOMICS_BODY
__attribute__((target("lse"))) static void *large_system_extensions(void *argument) ATOMICS_BODY

static void atomics(const char *name, void *(*body)(void *)) {
    memset(&shared, 0, sizeof shared);
    swap_sum = 0;
    run(body);
    printf("%s: %u %u %u %u %x %x %lu %lu %lx %lx\n", name, shared.b, shared.h, shared.w, shared.max, shared.bits, shared.taken,
           shared.x, swap_sum + shared.swapped, (unsigned long)(shared.q >> 64), (unsigned long)shared.q);
}

/* ---- message passing: what is written before a release is there after the acquire ---- */

static atomic_uint flag;
static unsigned payload, broken;

static void *messenger(void *argument) {
    uintptr_t me = (uintptr_t)argument;
    for (unsigned k = 0; me < 2 && k < 500; k++) {
        while (atomic_load_explicit(&flag, memory_order_acquire) % 2 != me) {
            sched_yield();
        }
        broken += payload != 2 * k + (unsigned)me;
        payload = 2 * k + (unsigned)me + 1;
        atomic_fetch_add_explicit(&flag, 1, memory_order_release);
    }
    return NULL;
}

int main(void) {
    pthread_spin_init(&spin, 0);
    run(locker);
    printf("locks %lu %lu %lu torn %lu local %lu\n", under_mutex, under_spin, under_rwlock, torn, all_mine);
    run(producer_or_consumer);
    printf("queue %lu left %u\n", consumed, head - tail);
    pthread_barrier_init(&barrier, NULL, THREADS);
    sem_init(&semaphore, 0, 2);
    run(stepper);
    printf("barrier: out of step %u, initialised %u\n", out_of_step, initialised);
    atomics("exclusives", exclusives);
    atomics("lse", large_system_extensions);
    run(messenger);
    printf("messages %u broken %u\n", payload, broken);
    return 0;
}
