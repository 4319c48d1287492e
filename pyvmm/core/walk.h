/*
 * The request to a table walk, common to both stages.
 *
 * A walk returns false with cpu->exc raised.
 */
#ifndef PYVMM_CORE_WALK_H
#define PYVMM_CORE_WALK_H

#include "cpu.h"

enum { PA_BITS = 48 };

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };
/* Whether an access passes the alignment checks of SCTLR_EL1.A and of Device memory. */
enum alignment {
    ALIGNED,   /* both: every element is aligned to its size */
    ZEROING,   /* DC ZVA: the first; it cannot zero Device memory */
    UNALIGNED, /* neither */
};

/* One translation, as the walkers and their faults need it. */
struct walk {
    uint64_t va;
    enum access access;
    enum mmu_index index;
    enum alignment alignment; /* of the whole access */
    bool no_update;           /* address translation, cache maintenance: no access flag or dirty state update */
    bool any_permission; /* debugger, cache cleaning: requires neither read permission nor the access flag */
};

#endif
