/*
 * Stage-1 translation of the EL1&0 regime: virtual address to intermediate physical address.
 *
 * In the order of AArch64.S1Translate: input address, walk, access flag, alignment, permissions, then the update of
 * the access flag and the dirty state (FEAT_HAFDBS) by compare-and-swap on the descriptor.
 * Not implemented, and not advertised: 52-bit addresses, hierarchical permission disables, small translation tables.
 */
#include "walk_s1.h"

#include "guest.h"
#include "raise.h"
#include "regime.h"
#include "walk_s2.h"

/* One half of the VA space as TCR_EL1 configures it. */
struct s1_geometry {
    uint64_t table;
    unsigned va_bits, granule_bits, stride, output_bits;
};

struct s1_leaf {
    uint64_t descriptor, descriptor_ipa;
    _Atomic uint64_t *host; /* of the descriptor */
    uint64_t limits;        /* permissions removed by higher tables, see limited() */
    uint64_t ipa;
    int level;
    unsigned block_shift;
};

enum s1_outcome { S1_OK, S1_FAULT, S1_AGAIN };

static bool s1_fault(struct cpu *cpu, const struct walk *w, unsigned fsc) {
    raise_abort(cpu, w->access == ACCESS_FETCH, w->access == ACCESS_WRITE, w->va, fsc, false, 0, false);
    return false;
}

/* The geometry of the VA's half.  @return false: the address is not translated (level 0 translation fault) */
static bool s1_geometry(const struct cpu *cpu, const struct walk *w, struct s1_geometry *g) {
    bool high = va_is_high(w->va);
    uint64_t tcr = cpu->st.tcr_el1;
    bool disabled = tcr & (high ? TCR_EPD1 : TCR_EPD0);
    bool denied = w->index == MMU_EL0 && tcr & (high ? TCR_E0PD1 : TCR_E0PD0);
    g->va_bits = va_bits(cpu, high);
    g->granule_bits = s1_granule_bits(cpu, high);
    g->stride = g->granule_bits - 3;
    g->output_bits = pa_bits(FIELD(tcr, TCR_IPS));
    g->table = (high ? cpu->st.ttbr1_el1 : cpu->st.ttbr0_el1) & ones(48) & ~1ull;
    unsigned top = top_byte_ignored(cpu, w->va, w->access == ACCESS_FETCH) ? 55 : 63;
    uint64_t above = (w->va & ones(top + 1)) >> g->va_bits;
    return !disabled && !denied && above == (high ? ones(top + 1 - g->va_bits) : 0);
}

/* Host address of a table entry, through stage 2 and the GPC.  NULL: fault raised. */
static _Atomic uint64_t *s1_descriptor(struct cpu *cpu, const struct walk *w, uint64_t ipa, int level, bool update) {
    struct stage2 t;
    if (!stage2_translate(cpu, w, ipa, level, update, &t)) {
        return NULL;
    }
    uint8_t *host = dram_host(cpu->machine, t.pas, t.pa | (ipa & ~PAGE_MASK));
    if (!host) {
        s1_fault(cpu, w, FSC_SYNC_EXTERNAL_WALK + level);
    }
    return (_Atomic uint64_t *)host;
}

static bool s1_block_allowed(const struct s1_geometry *g, int level) {
    return level == 2 || (level == 1 && g->granule_bits == 12);
}

enum { NO_EL0 = S1_DESC_VALID }; /* in limits: clears AP[1]; no leaf uses this bit there */

/* The permissions that a table descriptor removes below it: APTable, UXNTable, PXNTable, as leaf bits. */
static uint64_t table_limits(uint64_t descriptor) {
    return (descriptor & S1_DESC_READ_ONLY_TABLE ? S1_DESC_AP2 : 0) |
           (descriptor & S1_DESC_NO_EL0_TABLE ? NO_EL0 : 0) | (descriptor & S1_DESC_UXN_TABLE ? S1_DESC_UXN : 0) |
           (descriptor & S1_DESC_PXN_TABLE ? S1_DESC_PXN : 0);
}

static uint64_t limited(uint64_t descriptor, uint64_t limits) {
    descriptor |= limits & ~(uint64_t)NO_EL0;
    return limits & NO_EL0 ? descriptor & ~S1_DESC_AP1 : descriptor;
}

/* AArch64.S1Walk: find the leaf. */
static bool s1_walk(struct cpu *cpu, const struct walk *w, const struct s1_geometry *g, struct s1_leaf *leaf) {
    uint64_t table = g->table, limits = 0;
    unsigned high = g->va_bits;
    if (table >> g->output_bits) {
        return s1_fault(cpu, w, FSC_ADDRESS_SIZE);
    }
    int level = 4 - (int)((g->va_bits - g->granule_bits + g->stride - 1) / g->stride);
    for (;; level++) {
        unsigned low = g->granule_bits + g->stride * (3 - level);
        table &= ~ones(high - low + 3); /* a table is aligned to its size */
        leaf->descriptor_ipa = table + ((w->va & ones(high)) >> low) * 8;
        leaf->host = s1_descriptor(cpu, w, leaf->descriptor_ipa, level, false);
        if (!leaf->host) {
            return false;
        }
        uint64_t descriptor = atomic_load_explicit(leaf->host, memory_order_acquire);
        bool is_table = level < 3 && (descriptor & 3) == 3;
        bool is_leaf = level == 3 ? (descriptor & 3) == 3 : (descriptor & 3) == 1 && s1_block_allowed(g, level);
        if (!is_table && !is_leaf) {
            return s1_fault(cpu, w, FSC_TRANSLATION + level);
        }
        uint64_t address = descriptor & ones(48) & ~ones(is_leaf ? low : g->granule_bits);
        if (address >> g->output_bits) {
            return s1_fault(cpu, w, FSC_ADDRESS_SIZE + level);
        }
        if (is_leaf) {
            leaf->descriptor = descriptor;
            leaf->limits = limits;
            leaf->ipa = address | (w->va & ones(low));
            leaf->level = level;
            leaf->block_shift = level < 3 ? low : 0;
            return true;
        }
        limits |= table_limits(descriptor);
        table = address;
        high = low;
    }
}

/* The regime of EL2 alone has no EL0: AP[1] means nothing, and XN, which is at the place of UXN, is EL2's. */
static bool s1_permitted_el2(const struct cpu *cpu, const struct walk *w, uint64_t descriptor, bool dirty_managed) {
    bool writable = !(descriptor & S1_DESC_AP2) || dirty_managed;
    if (w->access == ACCESS_FETCH) {
        return !(descriptor & S1_DESC_UXN) && !(cpu->st.sctlr_el1 & SCTLR_WXN && writable);
    }
    return w->access == ACCESS_READ || writable;
}

/* AArch64.S1DirectBasePermissions and the checks on them; `dirty_managed`: an update can clear AP[2]. */
static bool s1_permitted(const struct cpu *cpu, const struct walk *w, uint64_t descriptor, bool dirty_managed) {
    if (unlikely(cpu->el2.single)) {
        return s1_permitted_el2(cpu, w, descriptor, dirty_managed);
    }
    bool el0 = w->index == MMU_EL0;
    bool user = descriptor & S1_DESC_AP1;
    bool writable = !(descriptor & S1_DESC_AP2) || dirty_managed;
    bool wxn = cpu->st.sctlr_el1 & SCTLR_WXN && writable;
    if (w->access == ACCESS_FETCH) {
        return el0 ? !(descriptor & S1_DESC_UXN) && !(wxn && user)
                   : !(descriptor & S1_DESC_PXN) && !wxn && !(user && writable); /* EL0 can write it: never PX */
    }
    if (el0 && !user) {
        return false;
    }
    if (w->index == MMU_EL1_PAN && user) {
        return false;
    }
    return w->access == ACCESS_READ || writable;
}

/* Set the access flag and, for a store, the dirty state.  S1_AGAIN: the descriptor changed meanwhile. */
static enum s1_outcome s1_update(struct cpu *cpu, const struct walk *w, struct s1_leaf *leaf, uint64_t wanted) {
    if (wanted == leaf->descriptor) {
        return S1_OK;
    }
    _Atomic uint64_t *host = s1_descriptor(cpu, w, leaf->descriptor_ipa, leaf->level, true);
    if (!host) {
        return S1_FAULT;
    }
    uint64_t seen = leaf->descriptor;
    return atomic_compare_exchange_strong(host, &seen, wanted) ? S1_OK : S1_AGAIN;
}

static void s1_attributes(const struct cpu *cpu, uint64_t descriptor, struct stage1 *out) {
    out->attr = cpu->st.mair_el1 >> FIELD(descriptor, S1_DESC_ATTR_INDEX) * 8;
    out->device = !(out->attr & 0xf0);
    out->sh = FIELD(descriptor, S1_DESC_SH);
    out->ng = descriptor & S1_DESC_NG;
    out->guarded = descriptor & S1_DESC_GP && cpu->machine->features & FEATURE_BTI;
}

/* One attempt. */
static enum s1_outcome s1_attempt(struct cpu *cpu, const struct walk *w, struct stage1 *out) {
    struct s1_geometry g;
    struct s1_leaf leaf;
    if (!s1_geometry(cpu, w, &g)) {
        s1_fault(cpu, w, FSC_TRANSLATION);
        return S1_FAULT;
    }
    if (!s1_walk(cpu, w, &g, &leaf)) {
        return S1_FAULT;
    }
    bool update_af = cpu->st.tcr_el1 & TCR_HA;
    if (!(leaf.descriptor & S1_DESC_AF) && !update_af && !w->any_permission) {
        s1_fault(cpu, w, FSC_ACCESS_FLAG + leaf.level);
        return S1_FAULT;
    }
    s1_attributes(cpu, leaf.descriptor, out);
    if (out->device && w->alignment != ALIGNED && !(cpu->st.hcr_el2 & HCR_FWB)) {
        s1_fault(cpu, w, FSC_ALIGNMENT);
        return S1_FAULT;
    }
    /* only the leaf's own AP[2] is dirty state, not APTable */
    bool dirty_managed =
        update_af && cpu->st.tcr_el1 & TCR_HD && leaf.descriptor & S1_DESC_DBM && !(leaf.limits & S1_DESC_AP2);
    if (!w->any_permission && !s1_permitted(cpu, w, limited(leaf.descriptor, leaf.limits), dirty_managed)) {
        s1_fault(cpu, w, FSC_PERMISSION + leaf.level);
        return S1_FAULT;
    }
    uint64_t wanted = leaf.descriptor;
    if (update_af && !w->no_update) {
        wanted |= S1_DESC_AF;
    }
    if (dirty_managed && w->access == ACCESS_WRITE && !w->no_update) {
        wanted &= ~S1_DESC_AP2;
    }
    out->ipa = leaf.ipa;
    out->block_shift = leaf.block_shift;
    out->writable = !(limited(wanted, leaf.limits) & S1_DESC_AP2);
    return s1_update(cpu, w, &leaf, wanted);
}

/* AArch64.S1DisabledOutput: flat, with Device data accesses unless HCR_EL2.DC. */
static bool s1_flat(struct cpu *cpu, const struct walk *w, struct stage1 *out) {
    uint64_t ipa = top_byte_ignored(cpu, w->va, w->access == ACCESS_FETCH) ? w->va & ones(56) : w->va;
    bool cacheable = cpu->st.hcr_el2 & HCR_DC;
    if (ipa >> PA_BITS) {
        return s1_fault(cpu, w, FSC_ADDRESS_SIZE);
    }
    *out = (struct stage1){.ipa = ipa, .writable = true, .attr = cacheable ? 0xff : 0, .sh = 2};
    out->device = w->access != ACCESS_FETCH && !cacheable;
    if (out->device && w->alignment != ALIGNED && !(cpu->st.hcr_el2 & HCR_FWB)) {
        return s1_fault(cpu, w, FSC_ALIGNMENT);
    }
    return true;
}

bool stage1_translate(struct cpu *cpu, const struct walk *w, struct stage1 *out) {
    if (cpu->st.sctlr_el1 & SCTLR_A && w->alignment == UNALIGNED) {
        return s1_fault(cpu, w, FSC_ALIGNMENT);
    }
    if (!(cpu->st.sctlr_el1 & SCTLR_M) || cpu->st.hcr_el2 & (HCR_DC | HCR_TGE)) {
        return s1_flat(cpu, w, out);
    }
    enum s1_outcome outcome;
    do {
        outcome = s1_attempt(cpu, w, out);
    } while (outcome == S1_AGAIN);
    return outcome == S1_OK;
}
