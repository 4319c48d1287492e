/*
 * Stage-1 translation.
 */
#ifndef PYVMM_CORE_WALK_S1_H
#define PYVMM_CORE_WALK_S1_H

#include "walk.h"

/* The stage-1 result for one address at one mmu index. */
struct stage1 {
    uint64_t ipa;
    bool writable; /* and dirty: a store needs no descriptor update */
    bool device, ng, guarded;
    uint8_t block_shift; /* log2 of the block's size; 0: a page */
    uint8_t attr, sh; /* MAIR byte and shareability, for PAR_EL1 */
};

bool stage1_translate(struct cpu *cpu, const struct walk *w, struct stage1 *out);

#endif
