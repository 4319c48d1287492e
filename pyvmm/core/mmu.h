/*
 * Between the translation files: what a walk is asked, what each stage answers, and the caches behind the software TLB.
 *
 * mmu.c puts the stages together and fills every cache, tlb_flush.c empties them; walk_s1.c and walk_s2.c are the table
 * walks, gpc.c the granule protection check.  A function that can fault returns false with cpu->exc raised.
 */
#ifndef PYVMM_CORE_MMU_H
#define PYVMM_CORE_MMU_H

#include "pstate.h"

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

/* One translation, as the walkers and their faults need it. */
struct walk {
    uint64_t va;
    enum access access;
    enum mmu_index index;
    enum alignment alignment; /* of the whole access */
    bool no_update;           /* address translation, cache maintenance: no access flag or dirty state update */
    bool any_permission;      /* debugger, cleaning of a cache: neither permissions to read nor the access flag are asked */
};

/* What stage 1 says of one address to accesses at one mmu index. */
struct stage1 {
    uint64_t ipa;
    bool writable; /* and dirty: a store needs no descriptor update */
    bool device, ng, guarded;
    uint8_t block_shift; /* log2 of the block's size; 0: a page */
    uint8_t attr, sh; /* MAIR byte and shareability, for PAR_EL1 */
};

/* Stage-2 memory type: what it makes of stage 1's. */
enum s2_memory { S2_FROM_S1, S2_DEVICE, S2_NORMAL };

enum s2_permission { S2_READ = 1, S2_WRITE = 2, S2_EXEC_EL1 = 4, S2_EXEC_EL0 = 8, S2_ALL = 15 };

/* What stage 2 says of one IPA page. */
struct stage2 {
    uint64_t pa; /* of the page */
    uint8_t pas, permissions, memory, level;
};

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

struct walk_cache *walk_cache_new(void); /* NULL: no memory */

/* walk_s1.c */
bool stage1_translate(struct cpu *cpu, const struct walk *w, struct stage1 *out);
/* walk_s2.c: the page of `ipa`, permissions checked.  s1_level: level of the stage-1 table that is accessed, or -1 for
 * the access itself; `update`: that table is to be written. */
bool stage2_translate(struct cpu *cpu, const struct walk *w, uint64_t ipa, int s1_level, bool update,
                      struct stage2 *out);
/* gpc.c: mark the granule as possibly cached, then check it; code as gpc_check() */
int gpc_admit(struct machine *machine, enum pas pas, uint64_t pa);

/* tlb_flush.c.  Another ASID or TTBR0_EL1 is in use: what is not global leaves the first-level TLBs, not the tagged second
 * level. */
void mmu_switch_asid(struct cpu *cpu);
void mmu_flush_asid(struct cpu *cpu, uint16_t asid);
void mmu_flush_stage1(struct cpu *cpu); /* everything but stage-2 results */

/* @return the host address of a physical address, NULL outside DRAM */
static inline uint8_t *dram_host(const struct machine *machine, enum pas pas, uint64_t pa) {
    uint64_t offset = pa - machine->dram_base;
    return offset < machine->dram_size ? machine->memory[pas] + offset : NULL;
}

/* The physical address size that a PS / IPS / PPS / PARange encoding means, bounded by ours. */
static inline unsigned pa_bits(unsigned encoding) {
    static const uint8_t sizes[8] = {32, 36, 40, 42, 44, 48, 48, 48};
    return sizes[encoding & 7];
}

static inline bool va_is_high(uint64_t va) {
    return va >> 55 & 1;
}

/* log2 of the translation granule that TCR_EL1 chooses for a half of the VA space. */
static inline unsigned s1_granule_bits(const struct cpu *cpu, bool high) {
    static const uint8_t granules[2][4] = {{12, 16, 14, 12}, {12, 14, 12, 16}}; /* TG0 and TG1 differ */
    return granules[high][cpu->st.tcr_el1 >> (high ? 30 : 14) & 3];
}

/* AArch64.EffectiveTBI: TCR_EL1.TBIn, which TBIDn takes back from addresses of instructions. */
static inline bool top_byte_ignored(const struct cpu *cpu, uint64_t va, bool fetch) {
    uint64_t tcr = cpu->st.tcr_el1 >> va_is_high(va);
    return tcr >> 37 & 1 && !(fetch && tcr >> 51 & 1);
}

/* log2 of the half of the VA space, as TnSZ gives it: what is out of range is the nearest. */
static inline unsigned va_bits(const struct cpu *cpu, bool high) {
    unsigned size_offset = cpu->st.tcr_el1 >> (high ? 16 : 0) & 63;
    return 64 - (size_offset < 16 ? 16 : size_offset > 39 ? 39 : size_offset);
}

/* ---- how the TLBs are addressed ---- */

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

/* With TCR_EL1.AS = 0 an ASID has 8 bits. */
static inline uint16_t effective_asid(const struct cpu *cpu, uint64_t asid) {
    return asid & (cpu->st.tcr_el1 >> 36 & 1 ? 0xffff : 0xff);
}

static inline uint16_t current_asid(const struct cpu *cpu) {
    return effective_asid(cpu, (cpu->st.tcr_el1 >> 22 & 1 ? cpu->st.ttbr1_el1 : cpu->st.ttbr0_el1) >> 48);
}

#endif
