/*
 * The TLBs behind the first level, the addressing of all TLBs, and the functions that empty them.  mmu.c fills them.
 */
#ifndef PYVMM_CORE_TLB_H
#define PYVMM_CORE_TLB_H

#include "walk_s2.h"

/* Stage-2 results by IPA page, GPC passed: a stage-1 walk under stage 2 costs one probe per level, not one walk. */
#define S2_CACHE_SIZE 2048
struct s2_entry {
    uint64_t tag; /* IPA page, or TLB_NONE */
    struct stage2 stage2;
};

/*
 * Second-level TLB: complete translations that survive an address space switch.  Set-associative; the set is a hash of
 * only the VA page, so that an invalidation by VA checks one set for all ASIDs.
 */
#define L2_SETS 1024
#define L2_WAYS 4
enum { L2_FETCH_EL0 = NUM_MMU, L2_FETCH_EL1, NUM_L2 }; /* `index` of entries for fetches */
struct l2_entry {
    uint64_t va; /* page, or TLB_NONE */
    uint64_t pa; /* page */
    uint16_t asid;
    uint8_t index, pas, block_shift;
    bool ng, guarded, readable, writable;
};

/*
 * The places where pieces of blocks may be cached, so that an invalidation by VA finds those of its block without
 * checking every entry.  A block is identified by its number, VA >> block_shift: it has a bit in its bucket, and the
 * bucket marks the first-level slots and the second-level sets with pieces of its blocks.
 */
enum { BLOCK_BUCKETS = 64 };
struct block_bucket {
    uint64_t blocks; /* block_bit() of the blocks with pieces; blocks may share a bit */
    uint64_t slots[TLB_SIZE / 64], sets[L2_SETS / 64];
};

struct walk_cache {
    struct s2_entry s2[S2_CACHE_SIZE];
    struct l2_entry l2[L2_SETS][L2_WAYS];
    uint8_t l2_next[L2_SETS]; /* way to replace */
    /* summary of the TLBs' contents, so that an invalidation need not check all of them */
    struct block_bucket blocks[BLOCK_BUCKETS]; /* by number */
    uint8_t fetch_shift[2][FETCH_SIZE]; /* block_shifts in the fetch TLB */
    uint64_t ng_slots[NUM_MMU][TLB_SIZE / 64]; /* bit per slot: filled with a non-global entry since the last switch */
    uint64_t ng_fetches[2][FETCH_SIZE / 64];
};

/* The page without the tag that TBI ignores, so that an address has the same place with any tag. */
static inline uint64_t tlb_page(uint64_t va) {
    return (uint64_t)sign_extend(va, 56) & PAGE_MASK;
}

static inline unsigned tlb_slot(uint64_t va) {
    return (va >> GRANULE_SHIFT) & (TLB_SIZE - 1);
}
_Static_assert(TLB_SIZE == FETCH_SIZE, "both are addressed by the same slot number");

static inline unsigned l2_set(uint64_t page) {
    return (page >> 12 ^ page >> 22 ^ page >> 32) & (L2_SETS - 1);
}

static inline uint64_t block_bit(uint64_t number) {
    return 1ull << (number / BLOCK_BUCKETS & 63);
}

/* What the translations of a regime depend on besides tables in memory. */
struct tlb_key {
    uint64_t ttbr0, ttbr1, tcr, mair, sctlr, hcr, vtcr, vttbr, security;
};

/* The TLBs of one regime, and for which registers they were filled. */
struct tlb_set {
    struct tlb_entry tlbs[NUM_MMU][TLB_SIZE];
    struct fetch_entry fetches[2][FETCH_SIZE];
    uint64_t guarded_slots[2][FETCH_SIZE / 64];
    struct walk_cache walks;
    struct tlb_key key;
    bool in_use; /* since it was emptied */
};

bool tlb_sets_new(struct cpu *cpu); /* false: no memory */
/* Use the TLBs of a regime from now on; they are emptied if its registers are not those of its last use.  The caller
 * calls cpu_select() afterwards. */
void tlb_enter(struct cpu *cpu, enum regime regime);
void tlb_leave(struct cpu *cpu); /* the registers of the regime in use are about to change to another regime's */

void tlb_flush_all(struct cpu *cpu); /* of the regime in use, as the others but: */
void tlb_flush_regime(struct cpu *cpu, enum regime regime);
void tlb_flush_regimes(struct cpu *cpu);
void tlb_drop_fetches(struct cpu *cpu); /* of all regimes */
void tlb_flush_stage1(struct cpu *cpu); /* everything but stage-2 results */
void tlb_flush_data(struct cpu *cpu); /* the first-level TLBs of data accesses, of all regimes */
void tlb_flush_va(struct cpu *cpu, uint64_t va, uint64_t size);
void tlb_flush_asid(struct cpu *cpu, uint16_t asid);
void tlb_flush_writes(struct cpu *cpu, const uint8_t *host_page); /* drop write tags to that host page */
/* Another ASID or TTBR0_EL1 is in use: drop non-global entries of the first-level TLBs; the second level has tags. */
void tlb_switch_asid(struct cpu *cpu);

#endif
