/*
 * The translation regime as one thing: stage 1, stage 2 and GPC behind two levels of software TLB.
 *
 * All of it belongs to one PE and is touched by that PE's thread alone; others ask through its invalidation queue.
 * Invariant: an entry stands only while the tables, registers and GPT that it came from may still give it.  Who
 * changes them calls a flush below before the change counts as done, and marks stand in `marks` and `has_code`
 * before an entry is used, so that a change to a granule or to code knows whom to ask.
 */
#include "mmu.h"

#include <stdlib.h>
#include <string.h>

/* A translation with what the TLB needs beyond struct translation. */
struct result {
    struct translation t;
    bool readable;
};

/* ---- one translation ---- */

static bool combined_device(const struct stage1 *s1, const struct stage2 *s2) {
    return s2->memory == S2_DEVICE || (s2->memory == S2_FROM_S1 && s1->device);
}

static bool translate(struct cpu *cpu, const struct walk *w, struct result *r) {
    struct stage1 s1;
    struct stage2 s2;
    if (!stage1_translate(cpu, w, &s1)) {
        return false;
    }
    struct walk second = *w;
    second.alignment = s1.device ? ALIGNED : w->alignment; /* the first stage that says Device asks for alignment */
    if (!stage2_translate(cpu, &second, s1.ipa, -1, false, &s2)) {
        return false;
    }
    struct translation *t = &r->t;
    t->pa = s2.pa | (s1.ipa & ~PAGE_MASK);
    t->pas = s2.pas;
    t->host = dram_host(cpu->machine, t->pas, t->pa);
    t->device = combined_device(&s1, &s2);
    t->writable = t->dirty_ok = s1.writable && s2.permissions & S2_WRITE;
    t->ng = s1.ng;
    t->block_shift = s1.block_shift;
    r->readable = s2.permissions & S2_READ;
    if (s1.device && t->device && w->alignment != ALIGNED) { /* with HCR_EL2.FWB only stage 2 could tell */
        return raise_alignment(cpu, w->va, w->access == ACCESS_WRITE);
    }
    return true;
}

static bool external_abort(struct cpu *cpu, const struct walk *w) {
    return raise_abort(cpu, w->access == ACCESS_FETCH, w->access == ACCESS_WRITE, w->va, FSC_EXTERNAL, false, 0, false);
}

static bool translate_byte(struct cpu *cpu, const struct walk *w, struct translation *t) {
    struct result r;
    if (!translate(cpu, w, &r)) {
        return false;
    }
    *t = r.t;
    return true;
}

bool mmu_translate(struct cpu *cpu, uint64_t va, enum access access, enum mmu_index index, struct translation *t) {
    struct walk w = {.va = va, .access = access, .index = index};
    return translate_byte(cpu, &w, t);
}

bool mmu_translate_for_debugger(struct cpu *cpu, uint64_t va, struct translation *t) {
    struct walk w = {.va = va, .index = MMU_EL1, .no_update = true, .any_permission = true};
    return translate_byte(cpu, &w, t);
}

/* Invalidating takes the permission to write; cleaning takes the one to read, at EL0 only.  PSTATE.PAN is for neither. */
bool mmu_translate_for_maintenance(struct cpu *cpu, uint64_t va, bool invalidates, struct translation *t) {
    struct walk w = {.va = va,
                     .access = invalidates ? ACCESS_WRITE : ACCESS_READ,
                     .index = cpu->el ? MMU_EL1 : MMU_EL0,
                     .no_update = true,
                     .any_permission = cpu->el && !invalidates};
    return translate_byte(cpu, &w, t);
}

/* ---- second-level TLB ---- */

/* The page without the tag that TBI ignores, so that an address has one set whatever its tag. */
static uint64_t l2_page(uint64_t va) {
    return (uint64_t)sign_extend(va, 56) & PAGE_MASK;
}

static unsigned l2_set(uint64_t page) {
    return (page >> 12 ^ page >> 22 ^ page >> 32) & (L2_SETS - 1);
}

/* With TCR_EL1.AS = 0 an ASID has 8 bits. */
static uint16_t effective_asid(const struct cpu *cpu, uint64_t asid) {
    return asid & (cpu->st.tcr_el1 >> 36 & 1 ? 0xffff : 0xff);
}

static uint16_t current_asid(const struct cpu *cpu) {
    return effective_asid(cpu, (cpu->st.tcr_el1 >> 22 & 1 ? cpu->st.ttbr1_el1 : cpu->st.ttbr0_el1) >> 48);
}

static const struct l2_entry *l2_find(const struct cpu *cpu, uint64_t va, unsigned index) {
    uint64_t page = l2_page(va);
    const struct l2_entry *set = cpu->walks->l2[l2_set(page)];
    for (unsigned way = 0; way < L2_WAYS; way++) {
        const struct l2_entry *e = &set[way];
        if (e->va == page && e->index == index && (!e->ng || e->asid == current_asid(cpu))) {
            return e;
        }
    }
    return NULL;
}

/* A top byte that stage 1 does not ignore makes an address another address: only canonical ones are kept. */
static bool l2_keeps(const struct cpu *cpu, uint64_t va) {
    bool top_byte_ignored = cpu->st.tcr_el1 >> (va_is_high(va) ? 38 : 37) & 1;
    return top_byte_ignored || (uint64_t)sign_extend(va, 56) == va;
}

static void l2_insert(struct cpu *cpu, uint64_t va, unsigned index, const struct result *r) {
    uint64_t page = l2_page(va);
    unsigned set = l2_set(page);
    struct l2_entry *e = (struct l2_entry *)l2_find(cpu, va, index); /* made writable, say */
    if (!e) {
        e = &cpu->walks->l2[set][cpu->walks->l2_next[set]++ % L2_WAYS];
    }
    *e = (struct l2_entry){.va = page,
                           .pa = r->t.pa & PAGE_MASK,
                           .asid = current_asid(cpu),
                           .index = index,
                           .pas = r->t.pas,
                           .block_shift = r->t.block_shift,
                           .ng = r->t.ng,
                           .readable = r->readable,
                           .writable = r->t.writable};
}

static bool l2_allows(const struct l2_entry *e, enum access access) {
    return access == ACCESS_FETCH || (access == ACCESS_READ ? e->readable : e->writable);
}

/* translate() behind the second-level TLB; what may be kept is kept. */
static bool translate_cached(struct cpu *cpu, const struct walk *w, struct result *r) {
    unsigned index = w->access != ACCESS_FETCH ? w->index : w->index == MMU_EL0 ? L2_FETCH_EL0 : L2_FETCH_EL1;
    bool keeps = l2_keeps(cpu, w->va) && !(cpu->st.sctlr_el1 & SCTLR_A);
    const struct l2_entry *e = keeps ? l2_find(cpu, w->va, index) : NULL;
    if (e && l2_allows(e, w->access)) {
        uint64_t pa = e->pa | (w->va & ~PAGE_MASK);
        r->t = (struct translation){.pa = pa,
                                    .pas = e->pas,
                                    .host = dram_host(cpu->machine, e->pas, pa),
                                    .writable = e->writable,
                                    .dirty_ok = e->writable,
                                    .ng = e->ng,
                                    .block_shift = e->block_shift};
        r->readable = e->readable;
        return true;
    }
    if (!translate(cpu, w, r)) {
        return false;
    }
    if (!r->t.host) {
        return external_abort(cpu, w);
    }
    if (keeps && !r->t.device) {
        l2_insert(cpu, w->va, index, r);
    }
    return true;
}

/* ---- first level ---- */

/* Blocks are looked for by the region that contains them whole: 2 MB, or 1 GB for the larger ones. */
static uint64_t *region_bit(struct walk_cache *walks, uint64_t va, bool giga, uint64_t *bit) {
    unsigned hash = (unsigned)(l2_page(va) >> (giga ? 30 : 21)) & 4095;
    *bit = 1ull << (hash & 63);
    return &walks->block_regions[giga][hash >> 6];
}

static void note_block(struct cpu *cpu, uint64_t va, unsigned block_shift) {
    uint8_t *largest = &cpu->walks->large_shift[va_is_high(va)];
    if (block_shift <= GRANULE_SHIFT) {
        return;
    }
    uint64_t bit, *word = region_bit(cpu->walks, va, block_shift > 21, &bit);
    *word |= bit;
    if (block_shift > *largest) {
        *largest = block_shift;
    }
}

/* May a cached translation come from a block that holds this address? */
static bool may_be_in_block(struct cpu *cpu, uint64_t va) {
    for (unsigned giga = 0; giga < 2; giga++) {
        uint64_t bit, *word = region_bit(cpu->walks, va, giga, &bit);
        if (*word & bit) {
            return true;
        }
    }
    return false;
}

static void note_ng(uint64_t *slots, uint64_t va) {
    unsigned slot = (va >> GRANULE_SHIFT) & (TLB_SIZE - 1);
    slots[slot / 64] |= 1ull << slot % 64;
}

static bool granule_has_code(const struct machine *machine, const struct translation *t) {
    return atomic_load(&machine->has_code[t->pas][(t->pa - machine->dram_base) >> GRANULE_SHIFT]);
}

static void tlb_install(struct cpu *cpu, uint64_t va, enum mmu_index index, const struct result *r) {
    const struct translation *t = &r->t;
    if (unlikely(cpu->debug.num_watched) && debug_watches_page(cpu, va)) {
        return;
    }
    struct tlb_entry *e = &cpu->tlbs[index][(va >> GRANULE_SHIFT) & (TLB_SIZE - 1)];
    uint64_t page = va & PAGE_MASK;
    e->read_tag = r->readable ? page : TLB_NONE;
    e->write_tag = t->dirty_ok && !granule_has_code(cpu->machine, t) ? page : TLB_NONE;
    e->addend = (uintptr_t)t->host - va;
    e->info = (t->ng ? TLB_INFO_NG : 0) | (uint64_t)t->block_shift << TLB_INFO_SIZE_SHIFT;
    if (t->ng) {
        note_ng(cpu->walks->ng_slots[index], va);
    }
    note_block(cpu, va, t->block_shift);
}

uint8_t *mmu_fill(struct cpu *cpu, uint64_t va, enum alignment alignment, enum access access, enum mmu_index index) {
    struct walk w = {.va = va, .access = access, .index = index, .alignment = alignment};
    struct result r;
    if (!translate_cached(cpu, &w, &r)) {
        return NULL;
    }
    /* an entry asks no question about alignment */
    if (!r.t.device && !(cpu->st.sctlr_el1 & SCTLR_A)) {
        tlb_install(cpu, va, index, &r);
    }
    return r.t.host;
}

struct insn *mmu_fetch(struct cpu *cpu, uint64_t va) {
    struct walk w = {.va = va, .access = ACCESS_FETCH, .index = cpu->el ? MMU_EL1 : MMU_EL0};
    struct result r;
    if (!translate_cached(cpu, &w, &r)) {
        return NULL;
    }
    struct insn *ops = code_page(cpu, r.t.pas, r.t.pa);
    struct fetch_entry *e = &cpu->fetches[cpu->el][(va >> GRANULE_SHIFT) & (FETCH_SIZE - 1)];
    e->tag = va & PAGE_MASK;
    e->ops = ops;
    if (r.t.ng) {
        note_ng(cpu->walks->ng_fetches[cpu->el], va);
    }
    note_block(cpu, va, r.t.block_shift);
    return ops;
}

/* ---- invalidation ---- */

static void tlb_drop(struct tlb_entry *e) {
    e->read_tag = e->write_tag = TLB_NONE;
}

static void tlb_drop_index(struct cpu *cpu, unsigned index) {
    for (unsigned k = 0; k < TLB_SIZE; k++) {
        tlb_drop(&cpu->tlbs[index][k]);
    }
}

static void fetch_drop_el(struct cpu *cpu, unsigned el) {
    for (unsigned k = 0; k < FETCH_SIZE; k++) {
        cpu->fetches[el][k].tag = FETCH_NONE;
    }
}

struct walk_cache *walk_cache_new(void) {
    return calloc(1, sizeof(struct walk_cache)); /* mmu_flush_all() makes it empty */
}

void mmu_flush_data(struct cpu *cpu) {
    for (unsigned index = 0; index < NUM_MMU; index++) {
        tlb_drop_index(cpu, index);
    }
}

void mmu_flush_stage1(struct cpu *cpu) {
    struct walk_cache *walks = cpu->walks;
    mmu_flush_data(cpu);
    fetch_drop_el(cpu, 0);
    fetch_drop_el(cpu, 1);
    for (unsigned set = 0; set < L2_SETS; set++) {
        for (unsigned way = 0; way < L2_WAYS; way++) {
            walks->l2[set][way].va = TLB_NONE;
        }
    }
    walks->large_shift[0] = walks->large_shift[1] = 0;
    memset(walks->block_regions, 0, sizeof walks->block_regions);
}

void mmu_flush_all(struct cpu *cpu) {
    mmu_flush_stage1(cpu);
    for (unsigned k = 0; k < S2_CACHE_SIZE; k++) {
        cpu->walks->s2[k].tag = TLB_NONE;
    }
}

static void flush_page(struct cpu *cpu, uint64_t va) {
    uint64_t page = l2_page(va);
    unsigned slot = (va >> GRANULE_SHIFT) & (TLB_SIZE - 1); /* what stands there may have any tag in its top byte */
    for (unsigned index = 0; index < NUM_MMU; index++) {
        tlb_drop(&cpu->tlbs[index][slot]);
    }
    cpu->fetches[0][slot].tag = cpu->fetches[1][slot].tag = FETCH_NONE;
    struct l2_entry *set = cpu->walks->l2[l2_set(page)];
    for (unsigned way = 0; way < L2_WAYS; way++) {
        if (set[way].va == page) {
            set[way].va = TLB_NONE;
        }
    }
}

static bool same_block(uint64_t a, uint64_t b, unsigned shift) {
    return !((l2_page(a) ^ l2_page(b)) >> shift);
}

/* Drop every piece of the block that the VA may be in; fetch entries do not know their block: take the largest. */
static void flush_blocks(struct cpu *cpu, uint64_t va) {
    struct walk_cache *walks = cpu->walks;
    for (unsigned index = 0; index < NUM_MMU; index++) {
        for (unsigned k = 0; k < TLB_SIZE; k++) {
            struct tlb_entry *e = &cpu->tlbs[index][k];
            uint64_t tag = e->read_tag != TLB_NONE ? e->read_tag : e->write_tag;
            if (same_block(tag, va, e->info >> TLB_INFO_SIZE_SHIFT & 63)) {
                tlb_drop(e);
            }
        }
    }
    for (unsigned k = 0; k < 2 * FETCH_SIZE; k++) {
        struct fetch_entry *e = &cpu->fetches[k / FETCH_SIZE][k % FETCH_SIZE];
        if (same_block(e->tag, va, walks->large_shift[va_is_high(va)])) {
            e->tag = FETCH_NONE;
        }
    }
    for (unsigned k = 0; k < L2_SETS * L2_WAYS; k++) {
        struct l2_entry *e = &walks->l2[k / L2_WAYS][k % L2_WAYS];
        if (same_block(e->va, va, e->block_shift)) {
            e->va = TLB_NONE;
        }
    }
}

void mmu_flush_va(struct cpu *cpu, uint64_t va, uint64_t size) {
    enum { MANY_PAGES = 512 };
    uint64_t pages = ((va & ~PAGE_MASK) + size + GRANULE_SIZE - 1) >> GRANULE_SHIFT;
    if (pages > MANY_PAGES) {
        mmu_flush_stage1(cpu);
        return;
    }
    for (uint64_t k = 0; k < pages; k++) {
        flush_page(cpu, va + k * GRANULE_SIZE);
        if (may_be_in_block(cpu, va + k * GRANULE_SIZE)) {
            flush_blocks(cpu, va + k * GRANULE_SIZE);
        }
    }
}

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

void mmu_switch_asid(struct cpu *cpu) {
    _Static_assert(TLB_SIZE == FETCH_SIZE, "both are addressed by the same slot number");
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
            cpu->fetches[el][slot].tag = FETCH_NONE;
        }
    }
}

/* A tag of the second level holds the ASID; the first level is that of the current one. */
void mmu_flush_asid(struct cpu *cpu, uint16_t asid) {
    asid = effective_asid(cpu, asid);
    for (unsigned k = 0; k < L2_SETS * L2_WAYS; k++) {
        struct l2_entry *e = &cpu->walks->l2[k / L2_WAYS][k % L2_WAYS];
        if (e->ng && e->asid == asid) {
            e->va = TLB_NONE;
        }
    }
    if (asid == current_asid(cpu)) {
        mmu_switch_asid(cpu);
    }
}

void mmu_flush_ng(struct cpu *cpu) {
    for (unsigned k = 0; k < L2_SETS * L2_WAYS; k++) {
        if (cpu->walks->l2[k / L2_WAYS][k % L2_WAYS].ng) {
            cpu->walks->l2[k / L2_WAYS][k % L2_WAYS].va = TLB_NONE;
        }
    }
    mmu_switch_asid(cpu);
}

void mmu_flush_writes(struct cpu *cpu, const uint8_t *host_page) {
    for (unsigned index = 0; index < NUM_MMU; index++) {
        for (unsigned k = 0; k < TLB_SIZE; k++) {
            struct tlb_entry *e = &cpu->tlbs[index][k];
            if (e->write_tag + e->addend == (uintptr_t)host_page) {
                e->write_tag = TLB_NONE;
            }
        }
    }
}
