/*
 * Translation behind the first-level TLB, which it fills.
 */
#ifndef PYVMM_CORE_MMU_H
#define PYVMM_CORE_MMU_H

#include "walk.h"

struct translation {
    uint64_t pa;
    enum pas pas;
    uint8_t *host;      /* host address of VA, NULL if outside DRAM */
    bool writable, dirty_ok; /* a store may go directly to memory from now on */
    bool device;        /* Device memory: unaligned accesses fault */
    bool ng, guarded;
    uint8_t block_shift; /* log2 of the stage-1 block's size; 0: a page */
};

/* Stage 1, stage 2 and GPC for one byte at mmu index.  @return false with cpu->exc raised. */
bool mmu_translate(struct cpu *cpu, uint64_t va, enum access access, enum mmu_index index, struct translation *t);
/* For cache maintenance by address, which needs fewer permissions; `invalidates`: DC IVAC. */
bool mmu_translate_for_maintenance(struct cpu *cpu, uint64_t va, bool invalidates, struct translation *t);
/* Ignores permissions and does not change the tables; *t is valid on success. */
bool mmu_translate_for_debugger(struct cpu *cpu, uint64_t va, struct translation *t);
/* Same as mmu_translate() for an access, or its part, within one page; fills the TLB entry.  @return the host
 * address of va, NULL with cpu->exc raised (also outside DRAM: synchronous external abort). */
uint8_t *mmu_fill(struct cpu *cpu, uint64_t va, enum alignment alignment, enum access access, enum mmu_index index);
/* Fetch: fills the fetch TLB; @return the decoded page of va's page, NULL with cpu->exc raised. */
struct insn *mmu_fetch(struct cpu *cpu, uint64_t va);

/* Is va's page guarded (FEAT_BTI)?  It must be in the fetch TLB, or the page being executed. */
static INLINE bool is_guarded(const struct cpu *cpu, uint64_t va) {
    unsigned slot = (va >> GRANULE_SHIFT) & (FETCH_SIZE - 1);
    return cpu->guarded[slot / 64] >> slot % 64 & 1;
}

#endif
