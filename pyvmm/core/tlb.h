/*
 * The TLBs behind the first level, how all of them are addressed, and what empties them.  mmu.c fills them.
 */
#ifndef PYVMM_CORE_TLB_H
#define PYVMM_CORE_TLB_H

#include "walk_s2.h"

/* Stage-2 results by IPA page, GPC passed: a stage-1 walk under stage 2 costs a probe a level, not a walk a level. */
#define S2_CACHE_SIZE 2048
struct s2_entry {
    uint64_t tag; /* IPA page, or TLB_NONE */
    struct stage2 stage2;
};

/*
 * Second-level TLB: whole translations that outlive an address space switch.  Set-associative; the set is a hash of the
 * VA page alone, so that an invalidation by VA looks at one set whatever the ASID.
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
 * Where pieces of blocks may be cached, so that an invalidation by VA finds those of its block without a look at every
 * entry.  A block is known by its number, VA >> block_shift: it has a bit in its bucket, and the bucket marks the slots of
 * the first level and the sets of the second in which pieces of its blocks were put.
 */
enum { BLOCK_BUCKETS = 64 };
struct block_bucket {
    uint64_t blocks; /* block_bit() of those that have pieces; blocks may share a bit */
    uint64_t slots[TLB_SIZE / 64], sets[L2_SETS / 64];
};

struct walk_cache {
    struct s2_entry s2[S2_CACHE_SIZE];
    struct l2_entry l2[L2_SETS][L2_WAYS];
    uint8_t l2_next[L2_SETS]; /* way to replace */
    /* what the TLBs hold, so that an invalidation need not look at all of them */
    struct block_bucket blocks[BLOCK_BUCKETS]; /* by number */
    uint8_t fetch_shift[2][FETCH_SIZE]; /* block_shift of what the fetch TLB holds */
    uint64_t ng_slots[NUM_MMU][TLB_SIZE / 64]; /* bit per slot: filled since the last switch by what is not global */
    uint64_t ng_fetches[2][FETCH_SIZE / 64];
};

/* The page without the tag that TBI ignores, so that an address has one place whatever its tag. */
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

struct walk_cache *walk_cache_new(void); /* NULL: no memory */

void tlb_flush_all(struct cpu *cpu);
void tlb_flush_stage1(struct cpu *cpu); /* everything but stage-2 results */
void tlb_flush_data(struct cpu *cpu);   /* the first-level TLBs of data accesses */
void tlb_flush_va(struct cpu *cpu, uint64_t va, uint64_t size);
void tlb_flush_asid(struct cpu *cpu, uint16_t asid);
void tlb_flush_writes(struct cpu *cpu, const uint8_t *host_page); /* drop write tags to that host page */
/* Another ASID or TTBR0_EL1 is in use: what is not global leaves the first-level TLBs, not the tagged second level. */
void tlb_switch_asid(struct cpu *cpu);

#endif
