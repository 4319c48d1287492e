/*
 * What both table walks share: what is asked of a walk, and the fault codes that it may give.
 *
 * A walk returns false with cpu->exc raised.
 */
#ifndef PYVMM_CORE_WALK_H
#define PYVMM_CORE_WALK_H

#include "cpu.h"

/* Fault status codes (DFSC/IFSC); those of a walk have the level added. */
enum fsc {
    FSC_ADDRESS_SIZE = 0x00,
    FSC_TRANSLATION = 0x04,
    FSC_ACCESS_FLAG = 0x08,
    FSC_PERMISSION = 0x0c,
    FSC_EXTERNAL = 0x10,
    FSC_EXTERNAL_WALK = 0x14,
    FSC_ALIGNMENT = 0x21,
    FSC_GPF_WALK = 0x24,
    FSC_GPF = 0x28,
};

enum { PA_BITS = 48 };
#define ADDRESS_MASK 0x0000fffffffff000ull /* output address bits of a descriptor, 4 KB granule */

#define SCTLR_M (1ull << 0)
#define SCTLR_A (1ull << 1)
#define SCTLR_WXN (1ull << 19)
#define SCTLR_UCI (1ull << 26)

#define HCR_VM (1ull << 0)
#define HCR_PTW (1ull << 2)
#define HCR_DC (1ull << 12)
#define HCR_FWB (1ull << 46)

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };
/* How an access passes the alignment checks of SCTLR_EL1.A and of Device memory. */
enum alignment {
    ALIGNED,   /* both: every element is aligned to its size */
    ZEROING,   /* DC ZVA: the first; Device memory it cannot zero */
    UNALIGNED, /* neither */
};

/* One translation, as the walkers and their faults need it. */
struct walk {
    uint64_t va;
    enum access access;
    enum mmu_index index;
    enum alignment alignment; /* of the whole access */
    bool no_update;           /* address translation, cache maintenance: no access flag or dirty state update */
    bool any_permission;      /* debugger, cleaning of a cache: neither permissions to read nor the access flag are asked */
};

#endif
