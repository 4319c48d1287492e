/*
 * Stage-2 translation: intermediate physical address to physical address and PAS.
 *
 * Tables are read in the PAS of the context's security state.  Spec: DDI 0487 AArch64.S2Walk, VTCR_EL2, VTTBR_EL2.
 * Not implemented: hardware update of the access flag and dirty state at stage 2, 52-bit addresses.
 */
#include "walk_s2.h"

#include "gpc.h"
#include "guest.h"
#include "raise.h"
#include "regime.h"
#include "tlb.h"

/* The start of a stage-2 walk, from VTCR_EL2. */
struct s2_geometry {
    unsigned granule_bits, stride, ipa_bits;
    int start_level;
};

struct s2_walk {
    const struct walk *w;
    uint64_t ipa;
    int s1_level;
    bool update;
};

static bool s2_fault(struct cpu *cpu, const struct s2_walk *s, unsigned fsc) {
    bool s1ptw = s->s1_level >= 0;
    bool write = s1ptw ? s->update : s->w->access == ACCESS_WRITE;
    raise_abort(cpu, s->w->access == ACCESS_FETCH, write, s->w->va, fsc, true, s->ipa, s1ptw);
    return false;
}

/* @return false if VTCR_EL2's start level does not match its input size (SL0 and T0SZ inconsistent) */
static bool s2_geometry(uint64_t vtcr, struct s2_geometry *g) {
    static const uint8_t granules[4] = {12, 16, 14, 12};
    unsigned sl0 = FIELD(vtcr, VTCR_SL0);
    g->granule_bits = granules[FIELD(vtcr, VTCR_TG0)];
    g->stride = g->granule_bits - 3;
    g->ipa_bits = 64 - FIELD(vtcr, VTCR_T0SZ);
    g->start_level = (g->granule_bits == 12 ? 2 : 3) - (int)sl0;
    int top_bits = (int)g->ipa_bits - (int)(g->granule_bits + g->stride * (3 - g->start_level));
    /* the top table may be up to 16 concatenated ones */
    return sl0 != 3 && g->ipa_bits <= PA_BITS && top_bits > 0 && top_bits <= (int)g->stride + 4;
}

/* Read one stage-2 descriptor. */
static bool s2_descriptor(struct cpu *cpu, const struct s2_walk *s, uint64_t pa, int level, uint64_t *descriptor) {
    enum pas pas = cpu->st.security;
    if (gpc_check(cpu->machine, pas, pa)) {
        return s2_fault(cpu, s, FSC_GPF_WALK + level);
    }
    const uint8_t *host = dram_host(cpu->machine, pas, pa);
    if (!host) {
        return s2_fault(cpu, s, FSC_SYNC_EXTERNAL_WALK + level);
    }
    *descriptor = atomic_load_explicit((_Atomic uint64_t *)host, memory_order_relaxed);
    return true;
}

/* Can there be a block at this level? */
static bool s2_block_allowed(const struct s2_geometry *g, int level) {
    return level == 2 || (level == 1 && g->granule_bits == 12);
}

static enum s2_memory s2_memory(const struct cpu *cpu, uint64_t descriptor) {
    if (!(cpu->st.hcr_el2 & HCR_FWB)) {
        return FIELD(descriptor, S2_DESC_MEMATTR) >> 2 ? S2_FROM_S1 : S2_DEVICE;
    }
    switch (FIELD(descriptor, S2_DESC_MEMATTR)) {
    case 5:
    case 7: return S2_FROM_S1;
    case 6: return S2_NORMAL;
    default: return S2_DEVICE;
    }
}

/* Translate a leaf descriptor to permissions, memory type and PAS. */
static void s2_decode_leaf(const struct cpu *cpu, uint64_t descriptor, struct stage2 *out) {
    static const uint8_t execute[4] = {/* by XN[1:0] */
                                       S2_EXEC_EL1 | S2_EXEC_EL0, S2_EXEC_EL0, 0, S2_EXEC_EL1};
    out->permissions = FIELD(descriptor, S2_DESC_S2AP) | execute[FIELD(descriptor, S2_DESC_XN)];
    out->memory = s2_memory(cpu, descriptor);
    out->pas = cpu->st.security;
    if (out->pas == PAS_REALM && descriptor & S2_DESC_NS) {
        out->pas = PAS_NS;
        out->permissions &= S2_READ | S2_WRITE; /* a Realm never fetches from Non-secure memory */
    }
}

/* AArch64.S2Walk: the leaf for an IPA; faults up to the access flag. */
static bool s2_walk(struct cpu *cpu, const struct s2_walk *s, struct stage2 *out) {
    struct s2_geometry g;
    uint64_t vtcr = cpu->st.vtcr_el2;
    if (!s2_geometry(vtcr, &g) || s->ipa >> g.ipa_bits) {
        return s2_fault(cpu, s, FSC_TRANSLATION);
    }
    unsigned output_bits = pa_bits(FIELD(vtcr, VTCR_PS));
    unsigned high = g.ipa_bits;
    uint64_t table = cpu->st.vttbr_el2 & ones(48) & ~1ull;
    if (table >> output_bits) {
        return s2_fault(cpu, s, FSC_ADDRESS_SIZE);
    }
    for (int level = g.start_level;; level++) {
        unsigned low = g.granule_bits + g.stride * (3 - level);
        uint64_t index = (s->ipa & ones(high)) >> low;
        table &= ~ones(high - low + 3); /* a table is aligned to its size */
        uint64_t descriptor = 0;
        if (!s2_descriptor(cpu, s, table + index * 8, level, &descriptor)) {
            return false;
        }
        bool is_table = level < 3 && (descriptor & 3) == 3;
        bool is_leaf = level == 3 ? (descriptor & 3) == 3 : (descriptor & 3) == 1 && s2_block_allowed(&g, level);
        if (!is_table && !is_leaf) {
            return s2_fault(cpu, s, FSC_TRANSLATION + level);
        }
        uint64_t address = descriptor & ones(48) & ~ones(is_leaf ? low : g.granule_bits);
        if (address >> output_bits) {
            return s2_fault(cpu, s, FSC_ADDRESS_SIZE + level);
        }
        if (is_leaf) {
            if (!(descriptor & S2_DESC_AF)) {
                return s2_fault(cpu, s, FSC_ACCESS_FLAG + level);
            }
            s2_decode_leaf(cpu, descriptor, out);
            out->pa = (address | (s->ipa & ones(low))) & PAGE_MASK;
            out->level = level;
            return true;
        }
        table = address;
        high = low;
    }
}

/* AArch64.S2HasPermissionsFault */
static bool s2_permitted(const struct cpu *cpu, const struct s2_walk *s, const struct stage2 *t) {
    if (s->s1_level >= 0) {
        if (t->memory == S2_DEVICE && cpu->st.hcr_el2 & HCR_PTW) {
            return false;
        }
        if (cpu->st.security == PAS_REALM && t->pas != PAS_REALM) {
            return false; /* no Realm translation table in Non-secure memory */
        }
        return t->permissions & S2_READ && (!s->update || t->permissions & S2_WRITE);
    }
    switch (s->w->access) {
    case ACCESS_READ: return s->w->any_permission || t->permissions & S2_READ;
    case ACCESS_WRITE: return t->permissions & S2_WRITE;
    default: return t->permissions & (s->w->index == MMU_EL0 ? S2_EXEC_EL0 : S2_EXEC_EL1);
    }
}

static bool s2_protected(struct cpu *cpu, const struct s2_walk *s, const struct stage2 *t) {
    if (!gpc_admit(cpu->machine, t->pas, t->pa)) {
        return true;
    }
    return s2_fault(cpu, s, s->s1_level >= 0 ? FSC_GPF_WALK + s->s1_level : FSC_GPF);
}

bool stage2_translate(struct cpu *cpu, const struct walk *w, uint64_t ipa, int s1_level, bool update,
                      struct stage2 *out) {
    struct s2_walk s = {w, ipa, s1_level, update};
    if (!(cpu->st.hcr_el2 & (HCR_VM | HCR_DC))) {
        *out = (struct stage2){ipa & PAGE_MASK, cpu->st.security, S2_ALL, S2_FROM_S1, 0};
        return s2_protected(cpu, &s, out);
    }
    uint64_t page = ipa & PAGE_MASK;
    struct s2_entry *e = &cpu->walks->s2[(page >> GRANULE_SHIFT) & (S2_CACHE_SIZE - 1)];
    bool hit = e->tag == page;
    if (hit) {
        *out = e->stage2;
    } else if (!s2_walk(cpu, &s, out)) {
        return false;
    }
    if (s1_level < 0 && out->memory == S2_DEVICE && w->alignment != ALIGNED) {
        return s2_fault(cpu, &s, FSC_ALIGNMENT);
    }
    if (!s2_permitted(cpu, &s, out)) {
        return s2_fault(cpu, &s, FSC_PERMISSION + out->level);
    }
    if (hit) {
        return true;
    }
    if (!s2_protected(cpu, &s, out)) {
        return false;
    }
    e->tag = page;
    e->stage2 = *out;
    return true;
}
