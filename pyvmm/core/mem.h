/*
 * Guest memory access: the fast path is a TLB compare and an add; everything else is in mem.c.
 *
 * Functions return false when an exception was raised (cpu->exc); nothing was read or written then.
 * An access that crosses a page goes through mem.c, which translates both pages before it accesses either.
 */
#ifndef PYVMM_CORE_MEM_H
#define PYVMM_CORE_MEM_H

#include "guest.h"
#include "pstate.h"

/* Adjacent elements, at most a page of them; alignment checks use the element size. */
bool mem_read_slow(struct cpu *cpu, uint64_t va, void *data, unsigned size, unsigned element, enum mmu_index index);
bool mem_write_slow(struct cpu *cpu, uint64_t va, const void *data, unsigned size, unsigned element,
                    enum mmu_index index);
/* Host address for an atomic access of `size` bytes, a read-modify-write or (not `reads`) a store exclusive;
 * unaligned: alignment fault.  NULL: exception raised. */
void *mem_rmw(struct cpu *cpu, uint64_t va, unsigned size, bool reads);
/* Call this after a store through mem_rmw(): it drops decoded code of the granule. */
void mem_rmw_done(struct cpu *cpu, uint64_t va, void *host, unsigned size);
bool mem_zero64_slow(struct cpu *cpu, uint64_t va); /* the aligned block of DC ZVA */

static INLINE struct tlb_entry *tlb_entry(const struct cpu *cpu, uint64_t va) {
    return &cpu->tlb[(va >> GRANULE_SHIFT) & (TLB_SIZE - 1)];
}

/* mem_rmw() and mem_rmw_done() behind the TLB. */
static INLINE bool atomic_is_fast(const struct cpu *cpu, uint64_t va, unsigned size) {
    const struct tlb_entry *e = tlb_entry(cpu, va);
    return (va & PAGE_MASK) == e->write_tag && e->read_tag == e->write_tag && (va & (size - 1)) == 0;
}
static INLINE void *atomic_begin(struct cpu *cpu, uint64_t va, unsigned size, bool reads) {
    return likely(atomic_is_fast(cpu, va, size)) ? (void *)(va + tlb_entry(cpu, va)->addend)
                                                 : mem_rmw(cpu, va, size, reads);
}
static INLINE void atomic_end(struct cpu *cpu, uint64_t va, void *host, unsigned size) {
    if (unlikely(!atomic_is_fast(cpu, va, size))) {
        mem_rmw_done(cpu, va, host, size);
    }
}

#define MEM_ACCESS(bits)                                                                                              \
    static INLINE bool mem_read##bits(struct cpu *cpu, uint64_t va, uint##bits##_t *value) {                          \
        const struct tlb_entry *e = tlb_entry(cpu, va);                                                               \
        if (likely(((va + (bits / 8 - 1)) & PAGE_MASK) == e->read_tag)) {                                             \
            *value = guest_load##bits((const void *)(va + e->addend));                                                \
            return true;                                                                                              \
        }                                                                                                             \
        uint##bits##_t slow; /* a separate variable, so that *value need not be in memory */                          \
        if (!mem_read_slow(cpu, va, &slow, bits / 8, bits / 8, mmu_index(cpu))) {                                     \
            return false;                                                                                             \
        }                                                                                                             \
        *value = slow;                                                                                                \
        return true;                                                                                                  \
    }                                                                                                                 \
    static INLINE bool mem_write##bits(struct cpu *cpu, uint64_t va, uint##bits##_t value) {                          \
        const struct tlb_entry *e = tlb_entry(cpu, va);                                                               \
        if (likely(((va + (bits / 8 - 1)) & PAGE_MASK) == e->write_tag)) {                                            \
            guest_store##bits((void *)(va + e->addend), value);                                                       \
            return true;                                                                                              \
        }                                                                                                             \
        uint##bits##_t slow = value;                                                                                  \
        return mem_write_slow(cpu, va, &slow, bits / 8, bits / 8, mmu_index(cpu));                                    \
    }

MEM_ACCESS(8)
MEM_ACCESS(16)
MEM_ACCESS(32)
MEM_ACCESS(64)
#undef MEM_ACCESS

static INLINE bool mem_read128(struct cpu *cpu, uint64_t va, union v128 *value) {
    const struct tlb_entry *e = tlb_entry(cpu, va);
    if (likely(((va + 15) & PAGE_MASK) == e->read_tag)) {
        *value = guest_load128((const void *)(va + e->addend));
        return true;
    }
    return mem_read_slow(cpu, va, value, 16, 16, mmu_index(cpu));
}

static INLINE bool mem_write128(struct cpu *cpu, uint64_t va, const union v128 *value) {
    const struct tlb_entry *e = tlb_entry(cpu, va);
    if (likely(((va + 15) & PAGE_MASK) == e->write_tag)) {
        guest_store128((void *)(va + e->addend), *value);
        return true;
    }
    return mem_write_slow(cpu, va, value, 16, 16, mmu_index(cpu));
}

#endif
