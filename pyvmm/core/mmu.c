/*
 * The whole translation regime: stage 1, stage 2 and GPC behind two levels of software TLB.  The code that empties the
 * TLBs is in tlb.c.
 *
 * Everything belongs to one PE, and only that PE's thread accesses it; others use its invalidation queue.
 * Invariant: an entry is kept only while its source tables, registers and GPT may still contain it.  Code that changes
 * them flushes the TLBs before the change counts as complete.  The marks in `marks` and `has_code` are set before an
 * entry is used, so that a change to a granule or to code finds the PEs concerned.
 */
#include "mmu.h"

#include "code.h"
#include "debug.h"
#include "guest.h"
#include "pmu.h"
#include "raise.h"
#include "regime.h"
#include "tlb.h"
#include "walk_s1.h"
#include "walk_s2.h"

/* A translation, with further data for the TLB. */
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
    second.alignment = s1.device ? ALIGNED : w->alignment; /* the first stage with Device memory requires alignment */
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
    t->guarded = s1.guarded;
    t->block_shift = s1.block_shift;
    r->readable = s2.permissions & S2_READ;
    if (s1.device && t->device && w->alignment != ALIGNED) { /* with HCR_EL2.FWB only stage 2 decides this */
        return raise_alignment(cpu, w->va, w->access == ACCESS_WRITE);
    }
    return true;
}

static bool external_abort(struct cpu *cpu, const struct walk *w) {
    return raise_abort(cpu, w->access == ACCESS_FETCH, w->access == ACCESS_WRITE, w->va, FSC_SYNC_EXTERNAL, false, 0,
                       false);
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

/* Invalidation requires write permission; cleaning requires
 * read permission, at EL0 only.  PSTATE.PAN affects neither. */
bool mmu_translate_for_maintenance(struct cpu *cpu, uint64_t va, bool invalidates, struct translation *t) {
    struct walk w = {.va = va,
                     .access = invalidates ? ACCESS_WRITE : ACCESS_READ,
                     .index = cpu->el ? MMU_EL1 : MMU_EL0,
                     .no_update = true,
                     .any_permission = cpu->el && !invalidates};
    return translate_byte(cpu, &w, t);
}

/* ---- second-level TLB ---- */

static const struct l2_entry *l2_find(const struct cpu *cpu, uint64_t va, unsigned index) {
    uint64_t page = tlb_page(va);
    const struct l2_entry *set = cpu->walks->l2[l2_set(page)];
    for (unsigned way = 0; way < L2_WAYS; way++) {
        const struct l2_entry *e = &set[way];
        if (e->va == page && e->index == index && (!e->ng || e->asid == current_asid(cpu))) {
            return e;
        }
    }
    return NULL;
}

/* If stage 1 does not ignore the top byte, it is part of the address: only canonical addresses are kept. */
static bool l2_keeps(const struct cpu *cpu, uint64_t va, bool fetch) {
    return top_byte_ignored(cpu, va, fetch) || (uint64_t)sign_extend(va, 56) == va;
}

static void l2_insert(struct cpu *cpu, uint64_t va, unsigned index, const struct result *r) {
    uint64_t page = tlb_page(va);
    unsigned set = l2_set(page);
    struct l2_entry *e = (struct l2_entry *)l2_find(cpu, va, index); /* for example, made writable */
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
                           .guarded = r->t.guarded,
                           .readable = r->readable,
                           .writable = r->t.writable};
}

static bool l2_allows(const struct l2_entry *e, enum access access) {
    return access == ACCESS_FETCH || (access == ACCESS_READ ? e->readable : e->writable);
}

/* Record where a piece of a block may be cached from now on. */
static void note_piece(struct cpu *cpu, uint64_t va, unsigned block_shift) {
    if (!block_shift) {
        return;
    }
    uint64_t number = tlb_page(va) >> block_shift;
    unsigned slot = tlb_slot(va), set = l2_set(tlb_page(va));
    struct block_bucket *bucket = &cpu->walks->blocks[number % BLOCK_BUCKETS];
    bucket->blocks |= block_bit(number);
    bucket->slots[slot / 64] |= 1ull << slot % 64;
    bucket->sets[set / 64] |= 1ull << set % 64;
}

/* translate() behind the second-level TLB; caches the result
 * if possible; the caller may cache a piece of a block, too. */
static bool translate_cached(struct cpu *cpu, const struct walk *w, struct result *r) {
    unsigned index = w->access != ACCESS_FETCH ? w->index : w->index == MMU_EL0 ? L2_FETCH_EL0 : L2_FETCH_EL1;
    bool keeps = l2_keeps(cpu, w->va, w->access == ACCESS_FETCH) && !(cpu->st.sctlr_el1 & SCTLR_A);
    const struct l2_entry *e = keeps ? l2_find(cpu, w->va, index) : NULL;
    if (e && l2_allows(e, w->access)) {
        uint64_t pa = e->pa | (w->va & ~PAGE_MASK);
        r->t = (struct translation){.pa = pa,
                                    .pas = e->pas,
                                    .host = dram_host(cpu->machine, e->pas, pa),
                                    .writable = e->writable,
                                    .dirty_ok = e->writable,
                                    .ng = e->ng,
                                    .guarded = e->guarded,
                                    .block_shift = e->block_shift};
        r->readable = e->readable;
        note_piece(cpu, w->va, e->block_shift);
        return true;
    }
    pmu_event(cpu, w->access == ACCESS_FETCH ? PMU_ITLB_WALK : PMU_DTLB_WALK);
    if (!translate(cpu, w, r)) {
        return false;
    }
    if (!r->t.host) {
        return unlikely(cpu->st.has_el2)
                   ? raise_outside(cpu, w->access == ACCESS_FETCH, w->access == ACCESS_WRITE, w->va, r->t.pa)
                   : external_abort(cpu, w);
    }
    note_piece(cpu, w->va, r->t.block_shift);
    if (keeps && !r->t.device) {
        l2_insert(cpu, w->va, index, r);
    }
    return true;
}

/* ---- first level ---- */

static void note_ng(uint64_t *slots, uint64_t va) {
    unsigned slot = tlb_slot(va);
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
    struct tlb_entry *e = &cpu->tlbs[index][tlb_slot(va)];
    uint64_t page = va & PAGE_MASK;
    e->read_tag = r->readable ? page : TLB_NONE;
    e->write_tag = t->dirty_ok && !granule_has_code(cpu->machine, t) ? page : TLB_NONE;
    e->addend = (uintptr_t)t->host - va;
    e->info = (t->ng ? TLB_INFO_NG : 0) | (uint64_t)t->block_shift << TLB_INFO_SHIFT_SHIFT;
    if (t->ng) {
        note_ng(cpu->walks->ng_slots[index], va);
    }
}

uint8_t *mmu_fill(struct cpu *cpu, uint64_t va, enum alignment alignment, enum access access, enum mmu_index index) {
    struct walk w = {.va = va, .access = access, .index = index, .alignment = alignment};
    struct result r;
    if (!translate_cached(cpu, &w, &r)) {
        return NULL;
    }
    pmu_event(cpu, PMU_L1D_TLB_REFILL);
    /* an entry is used without alignment checks */
    if (!r.t.device && !(cpu->st.sctlr_el1 & SCTLR_A)) {
        tlb_install(cpu, va, index, &r);
    }
    return r.t.host;
}

static void note_guarded(struct cpu *cpu, uint64_t va, bool guarded) {
    unsigned slot = tlb_slot(va);
    uint64_t *word = &cpu->guarded_slots[cpu->el][slot / 64], bit = 1ull << slot % 64;
    *word = guarded ? *word | bit : *word & ~bit;
}

struct insn *mmu_fetch(struct cpu *cpu, uint64_t va) {
    struct walk w = {.va = va, .access = ACCESS_FETCH, .index = cpu->el ? MMU_EL1 : MMU_EL0};
    struct result r;
    if (!translate_cached(cpu, &w, &r)) {
        return NULL;
    }
    pmu_event(cpu, PMU_L1I_TLB_REFILL);
    struct insn *ops = code_page(cpu, r.t.pas, r.t.pa);
    struct fetch_entry *e = &cpu->fetches[cpu->el][tlb_slot(va)];
    e->tag = va & PAGE_MASK;
    e->ops = ops;
    e->jit = page_of(ops)->jit;
    note_guarded(cpu, va, r.t.guarded);
    if (r.t.ng) {
        note_ng(cpu->walks->ng_fetches[cpu->el], va);
    }
    cpu->walks->fetch_shift[cpu->el][tlb_slot(va)] = r.t.block_shift;
    return ops;
}
