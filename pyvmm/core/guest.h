/*
 * Guest memory as host memory: every access in C to it uses this file.
 *
 * Other PEs, devices and the host use the same bytes at the same time, so an access is a relaxed atomic of the host,
 * which costs the same as a plain one; ordering comes from the guest's own barriers and atomics (a64_atomic.c.inc).
 * Accesses that are not single-copy atomic in the architecture are done in halves or other pieces: 16 bytes, and whole
 * blocks.
 */
#ifndef PYVMM_CORE_GUEST_H
#define PYVMM_CORE_GUEST_H

#include <stddef.h>
#include <string.h>

#include "cpu.h"

/* @return the host address of a physical address, NULL outside DRAM */
static inline uint8_t *dram_host(const struct machine *machine, enum pas pas, uint64_t pa) {
    uint64_t offset = pa - machine->dram_base;
    return offset < machine->dram_size ? machine->memory[pas] + offset : NULL;
}

#define GUEST_ACCESS(bits)                                                                                            \
    static INLINE uint##bits##_t guest_load##bits(const void *host) {                                                 \
        return __atomic_load_n((const uint##bits##_t *)host, __ATOMIC_RELAXED);                                       \
    }                                                                                                                 \
    static INLINE void guest_store##bits(void *host, uint##bits##_t value) {                                          \
        __atomic_store_n((uint##bits##_t *)host, value, __ATOMIC_RELAXED);                                            \
    }

GUEST_ACCESS(8)
GUEST_ACCESS(16)
GUEST_ACCESS(32)
GUEST_ACCESS(64)
#undef GUEST_ACCESS

#ifdef __SANITIZE_THREAD__ /* which must see that a block consists of atomics, too */

static inline union v128 guest_load128(const void *host) {
    return (union v128){.d = {guest_load64(host), guest_load64((const char *)host + 8)}};
}

static inline void guest_store128(void *host, union v128 value) {
    guest_store64(host, value.d[0]);
    guest_store64((char *)host + 8, value.d[1]);
}

static inline void guest_read(void *data, const void *host, size_t size) {
    for (size_t k = 0; k < size; k++) {
        ((uint8_t *)data)[k] = guest_load8((const uint8_t *)host + k);
    }
}

static inline void guest_write(void *host, const void *data, size_t size) {
    for (size_t k = 0; k < size; k++) {
        guest_store8((uint8_t *)host + k, ((const uint8_t *)data)[k]);
    }
}

static inline void guest_zero(void *host, size_t size) {
    for (size_t k = 0; k < size; k++) {
        guest_store8((uint8_t *)host + k, 0);
    }
}

#else

static INLINE union v128 guest_load128(const void *host) {
    union v128 value;
    memcpy(&value, host, 16);
    return value;
}

static INLINE void guest_store128(void *host, union v128 value) {
    memcpy(host, &value, 16);
}

static INLINE void guest_read(void *data, const void *host, size_t size) {
    memcpy(data, host, size);
}

static INLINE void guest_write(void *host, const void *data, size_t size) {
    memcpy(host, data, size);
}

static INLINE void guest_zero(void *host, size_t size) {
    memset(host, 0, size);
}

#endif

#endif
