/*
 * Emptying the TLBs: invalidations by VA, by ASID and of everything.
 *
 * An invalidation by VA checks the possible places of its pages' translations and, if the VA may be in a block, those
 * of the block's pieces (struct block_bucket).  Dropping more than necessary is always allowed.
 */
#include "tlb.h"

#include <stdlib.h>
#include <string.h>

#include "regime.h"

/* ---- everything ---- */

static void tlb_drop(struct tlb_entry *e) {
    e->read_tag = e->write_tag = TLB_NONE;
    e->info = 0;
}

static void fetch_drop(struct cpu *cpu, unsigned el, unsigned slot) {
    cpu->fetches[el][slot].tag = FETCH_NONE;
    cpu->walks->fetch_shift[el][slot] = 0;
}

static void l2_drop(struct l2_entry *e) {
    e->va = TLB_NONE;
    e->block_shift = 0;
}

static void drop_data(struct tlb_set *set) {
    for (unsigned index = 0; index < NUM_MMU; index++) {
        for (unsigned slot = 0; slot < TLB_SIZE; slot++) {
            tlb_drop(&set->tlbs[index][slot]);
        }
    }
}

void tlb_flush_data(struct cpu *cpu) {
    for (enum regime regime = 0; regime < NUM_REGIMES; regime++) {
        if (cpu->sets[regime].in_use) {
            drop_data(&cpu->sets[regime]);
        }
    }
}

void tlb_flush_stage1(struct cpu *cpu) {
    struct walk_cache *walks = cpu->walks;
    drop_data(&cpu->sets[cpu->regime]);
    for (unsigned slot = 0; slot < FETCH_SIZE; slot++) {
        fetch_drop(cpu, 0, slot);
        fetch_drop(cpu, 1, slot);
    }
    for (unsigned k = 0; k < L2_SETS * L2_WAYS; k++) {
        l2_drop(&walks->l2[k / L2_WAYS][k % L2_WAYS]);
    }
    memset(walks->blocks, 0, sizeof walks->blocks);
}

void tlb_flush_all(struct cpu *cpu) {
    tlb_flush_stage1(cpu);
    for (unsigned k = 0; k < S2_CACHE_SIZE; k++) {
        cpu->walks->s2[k].tag = TLB_NONE;
    }
}

/* ---- by regime ---- */

static void use_set(struct cpu *cpu, enum regime regime) {
    struct tlb_set *set = &cpu->sets[regime];
    cpu->regime = regime;
    cpu->tlbs = set->tlbs;
    cpu->fetches = set->fetches;
    cpu->guarded_slots = set->guarded_slots;
    cpu->walks = &set->walks;
}

bool tlb_sets_new(struct cpu *cpu) {
    size_t size = NUM_REGIMES * sizeof *cpu->sets;
    cpu->sets = aligned_alloc(64, (size + 63) & ~63ull);
    if (!cpu->sets) {
        return false;
    }
    memset(cpu->sets, 0, size);
    for (enum regime regime = NUM_REGIMES; regime-- > 0;) {
        use_set(cpu, regime);
        tlb_flush_all(cpu);
    }
    return true;
}

static struct tlb_key current_key(const struct cpu *cpu) {
    const struct pe_state *st = &cpu->st;
    return (struct tlb_key){.ttbr0 = st->ttbr0_el1,
                            .ttbr1 = st->ttbr1_el1,
                            .tcr = st->tcr_el1,
                            .mair = st->mair_el1,
                            .sctlr = st->sctlr_el1,
                            .hcr = st->hcr_el2,
                            .vtcr = st->vtcr_el2,
                            .vttbr = st->vttbr_el2,
                            .security = st->security};
}

void tlb_enter(struct cpu *cpu, enum regime regime) {
    struct tlb_key key = current_key(cpu);
    struct tlb_set *set = &cpu->sets[regime];
    use_set(cpu, regime);
    if (memcmp(&set->key, &key, sizeof key) != 0) {
        tlb_flush_all(cpu);
        set->key = key;
    }
    set->in_use = true;
}

void tlb_leave(struct cpu *cpu) {
    cpu->sets[cpu->regime].key = current_key(cpu);
}

void tlb_flush_regime(struct cpu *cpu, enum regime regime) {
    enum regime current = cpu->regime;
    if (regime == current || cpu->sets[regime].in_use) {
        use_set(cpu, regime);
        tlb_flush_all(cpu);
        cpu->sets[regime].in_use = regime == current;
        use_set(cpu, current);
    }
}

void tlb_flush_regimes(struct cpu *cpu) {
    for (enum regime regime = 0; regime < NUM_REGIMES; regime++) {
        tlb_flush_regime(cpu, regime);
    }
}

void tlb_drop_fetches(struct cpu *cpu) {
    for (enum regime regime = 0; regime < NUM_REGIMES; regime++) {
        for (unsigned slot = 0; slot < FETCH_SIZE; slot++) {
            cpu->sets[regime].fetches[0][slot].tag = FETCH_NONE;
            cpu->sets[regime].fetches[1][slot].tag = FETCH_NONE;
        }
    }
}

/* ---- by VA ---- */

/* An invalidation of the leaves that overlap the pages
 * first..last.  `bucket`: report the remaining blocks of this one. */
struct sweep {
    uint64_t first, last;
    unsigned bucket;
};

/* Does the leaf of an entry overlap the range? */
static bool is_swept(const struct sweep *sweep, uint64_t tag, unsigned block_shift) {
    uint64_t page = tlb_page(tag);
    return (page & ~ones(block_shift)) <= sweep->last && (page | ones(block_shift)) >= sweep->first;
}

/* @return for an entry that stays: the bit of its block, if it is a piece of a block in the bucket */
static uint64_t kept_block(const struct sweep *sweep, uint64_t tag, unsigned block_shift) {
    uint64_t number = tlb_page(tag) >> block_shift;
    return block_shift && number % BLOCK_BUCKETS == sweep->bucket ? block_bit(number) : 0;
}

/* Sweep a slot of every first-level TLB.  @return the blocks of the bucket with remaining pieces in it */
static uint64_t sweep_slot(struct cpu *cpu, unsigned slot, const struct sweep *sweep) {
    uint64_t kept = 0;
    for (unsigned index = 0; index < NUM_MMU; index++) {
        struct tlb_entry *e = &cpu->tlbs[index][slot];
        uint64_t tag = e->read_tag != TLB_NONE ? e->read_tag : e->write_tag;
        unsigned block_shift = e->info >> TLB_INFO_SHIFT_SHIFT & 63;
        if (is_swept(sweep, tag, block_shift)) {
            tlb_drop(e);
        } else {
            kept |= kept_block(sweep, tag, block_shift);
        }
    }
    for (unsigned el = 0; el < 2; el++) {
        uint64_t tag = cpu->fetches[el][slot].tag;
        unsigned block_shift = cpu->walks->fetch_shift[el][slot];
        if (is_swept(sweep, tag, block_shift)) {
            fetch_drop(cpu, el, slot);
        } else {
            kept |= kept_block(sweep, tag, block_shift);
        }
    }
    return kept;
}

/* The same for a set of the second level. */
static uint64_t sweep_set(struct cpu *cpu, unsigned set, const struct sweep *sweep) {
    uint64_t kept = 0;
    for (unsigned way = 0; way < L2_WAYS; way++) {
        struct l2_entry *e = &cpu->walks->l2[set][way];
        if (is_swept(sweep, e->va, e->block_shift)) {
            l2_drop(e);
        } else {
            kept |= kept_block(sweep, e->va, e->block_shift);
        }
    }
    return kept;
}

/* Sweep the marked slots or sets; keep the marks of those with remaining pieces. */
static uint64_t sweep_marked(struct cpu *cpu, uint64_t *marks, const struct sweep *sweep,
                             uint64_t (*sweep_one)(struct cpu *, unsigned, const struct sweep *)) {
    uint64_t kept = 0;
    for (unsigned word = 0; word < TLB_SIZE / 64; word++) {
        for (uint64_t left = marks[word]; left; left &= left - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(left);
            uint64_t blocks = sweep_one(cpu, word * 64 + bit, sweep);
            kept |= blocks;
            marks[word] &= ~((uint64_t)!blocks << bit);
        }
    }
    return kept;
}

static void sweep_block(struct cpu *cpu, uint64_t number, struct sweep *sweep) {
    _Static_assert(TLB_SIZE == L2_SETS, "slots and sets are marked alike");
    sweep->bucket = number % BLOCK_BUCKETS;
    struct block_bucket *bucket = &cpu->walks->blocks[sweep->bucket];
    if (bucket->blocks & block_bit(number)) {
        bucket->blocks =
            sweep_marked(cpu, bucket->slots, sweep, sweep_slot) | sweep_marked(cpu, bucket->sets, sweep, sweep_set);
    }
}

/* The block sizes of the granule: at level 2, and for 4 KB at level 1 too. */
static void sweep_blocks(struct cpu *cpu, struct sweep *sweep) {
    unsigned granule_bits = s1_granule_bits(cpu, va_is_high(sweep->first));
    unsigned level2 = 2 * granule_bits - 3, largest = granule_bits == GRANULE_SHIFT ? 30 : level2;
    for (unsigned shift = level2; shift <= largest; shift += granule_bits - 3) {
        for (uint64_t number = sweep->first >> shift; number <= sweep->last >> shift; number++) {
            sweep_block(cpu, number, sweep);
        }
    }
}

static void sweep_all(struct cpu *cpu, const struct sweep *sweep) {
    for (unsigned k = 0; k < TLB_SIZE; k++) {
        sweep_slot(cpu, k, sweep);
        sweep_set(cpu, k, sweep);
    }
}

void tlb_flush_va(struct cpu *cpu, uint64_t va, uint64_t size) {
    uint64_t first = tlb_page(va), last = first + ((va & ~PAGE_MASK) + size - 1);
    struct sweep sweep = {.first = first, .last = last < first ? ~0ull : last, .bucket = BLOCK_BUCKETS};
    if ((sweep.last - first) >> GRANULE_SHIFT >= TLB_SIZE) {
        sweep_all(cpu, &sweep);
        return;
    }
    for (uint64_t page = first; page - first <= sweep.last - first; page += GRANULE_SIZE) {
        sweep_slot(cpu, tlb_slot(page), &sweep);
        sweep_set(cpu, l2_set(page), &sweep);
    }
    sweep_blocks(cpu, &sweep);
}

/* ---- by ASID ---- */

/* Take the lowest set bit of a bitmap of TLB_SIZE bits.  @return its number, -1 if none is left */
static int next_slot(uint64_t *slots) {
    for (unsigned word = 0; word < TLB_SIZE / 64; word++) {
        if (slots[word]) {
            int bit = __builtin_ctzll(slots[word]);
            slots[word] &= slots[word] - 1;
            return (int)word * 64 + bit;
        }
    }
    return -1;
}

void tlb_switch_asid(struct cpu *cpu) {
    int slot;
    for (unsigned index = 0; index < NUM_MMU; index++) {
        while ((slot = next_slot(cpu->walks->ng_slots[index])) >= 0) {
            if (cpu->tlbs[index][slot].info & TLB_INFO_NG) {
                tlb_drop(&cpu->tlbs[index][slot]);
            }
        }
    }
    for (unsigned el = 0; el < 2; el++) {
        while ((slot = next_slot(cpu->walks->ng_fetches[el])) >= 0) {
            fetch_drop(cpu, el, (unsigned)slot);
        }
    }
}

/* Second-level tags contain the ASID; the first level has only entries of the current one. */
void tlb_flush_asid(struct cpu *cpu, uint16_t asid) {
    asid = effective_asid(cpu, asid);
    for (unsigned k = 0; k < L2_SETS * L2_WAYS; k++) {
        struct l2_entry *e = &cpu->walks->l2[k / L2_WAYS][k % L2_WAYS];
        if (e->ng && e->asid == asid) {
            l2_drop(e);
        }
    }
    if (asid == current_asid(cpu)) {
        tlb_switch_asid(cpu);
    }
}

/* ---- stores that need further actions ---- */

void tlb_flush_writes(struct cpu *cpu, const uint8_t *host_page) {
    for (enum regime regime = 0; regime < NUM_REGIMES; regime++) {
        struct tlb_entry *entries = cpu->sets[regime].tlbs[0];
        for (unsigned k = 0; cpu->sets[regime].in_use && k < NUM_MMU * TLB_SIZE; k++) {
            struct tlb_entry *e = &entries[k];
            if (e->write_tag + e->addend == (uintptr_t)host_page) {
                e->write_tag = TLB_NONE;
            }
        }
    }
}
