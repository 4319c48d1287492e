/*
 * Address translation instructions of stage 1: AT S1E0R, S1E0W, S1E1R, S1E1W, S1E1RP, S1E1WP.
 *
 * The result or fault of stage 1 goes to PAR_EL1; a stage-2 fault at a table access, or a GPC fault, is an exception
 * to EL2.
 * Spec: DDI 0487, AArch64.AT, PAR_EL1.
 */
#include "at.h"

#include "el2.h"
#include "raise.h"
#include "walk_s1.h"
#include "walk_s2.h"

enum { AT_S1E1R = 0, AT_S1E1W = 1, AT_S1E0R = 2, AT_S1E0W = 3, AT_S1E1RP = 8, AT_S1E1WP = 9 };
enum { SH_OUTER = 2 };

/* A stage-1 fault in the format of PAR_EL1. */
static uint64_t par_fault(const struct exception *exc) {
    return PAR_F | AS_FIELD(FIELD(exc->iss, ESR_ABORT_FSC), PAR_FST) | PAR_RES1;
}

static uint64_t par_success(const struct stage1 *s1) {
    bool non_cacheable = s1->device || s1->attr == 0x44;
    unsigned sh = non_cacheable ? SH_OUTER : s1->sh;
    return AS_FIELD(s1->attr, PAR_ATTR) | (s1->ipa & PAR_PA) | PAR_RES1 | AS_FIELD(sh, PAR_SH);
}

static bool at_decode(const struct cpu *cpu, unsigned op, struct walk *w) {
    w->access = op & 1 ? ACCESS_WRITE : ACCESS_READ;
    switch (op) {
    case AT_S1E0R:
    case AT_S1E0W: w->index = MMU_EL0; return true;
    case AT_S1E1R:
    case AT_S1E1W: w->index = MMU_EL1; return true;
    case AT_S1E1RP:
    case AT_S1E1WP: w->index = cpu->pan ? MMU_EL1_PAN : MMU_EL1; return true;
    default: return false;
    }
}

/* ---- at EL2 ---- */

enum { AT_EL2 = 4 << 4, AT_S1E2R = AT_EL2, AT_S1E2W = AT_EL2 | 1, AT_S12 = AT_EL2 | 4 };

/* PAR_EL1 of a failure; one of stage 2 is no exception here. */
static uint64_t par_fault_at_el2(const struct exception *exc, bool stage2) {
    bool on_walk = exc->iss & ESR_ABORT_S1PTW;
    return par_fault(exc) | (on_walk ? PAR_PTW : 0) | (stage2 || on_walk ? PAR_S : 0);
}

static uint64_t par_of(struct cpu *cpu, const struct walk *w, bool with_stage2) {
    struct stage1 s1;
    struct stage2 s2;
    if (!stage1_translate(cpu, w, &s1)) {
        return par_fault_at_el2(&cpu->exc, false);
    }
    if (!with_stage2) {
        return par_success(&s1);
    }
    if (!stage2_translate(cpu, w, s1.ipa, -1, false, &s2)) {
        return par_fault_at_el2(&cpu->exc, true);
    }
    s1.ipa = s2.pa;
    return par_success(&s1);
}

/* Operations of EL1's names translate as EL2 does with E2H and TGE; otherwise they, and the S12 forms, as EL1 does. */
static enum step at_el2(struct cpu *cpu, unsigned op, uint64_t va) {
    struct walk w = {.va = va, .no_update = true, .index = MMU_EL1, .access = op & 1 ? ACCESS_WRITE : ACCESS_READ};
    bool is_s12 = (op & AT_S12) == AT_S12, is_own = op == AT_S1E2R || op == AT_S1E2W;
    if (!is_own && !at_decode(cpu, is_s12 ? op & 3 : op, &w)) {
        raise_undefined(cpu);
        return STEP_FAULT;
    }
    bool stays = is_own || (!is_s12 && cpu->el2.e2h && cpu->el2.tge);
    if (!stays) {
        el2_switch(cpu, false);
    }
    uint64_t par = par_of(cpu, &w, is_s12);
    if (!stays) {
        el2_switch(cpu, true);
    }
    cpu->st.par_el1 = par;
    return STEP_NEXT;
}

enum step at_insn(struct cpu *cpu, unsigned op, uint64_t va) {
    if (unlikely(cpu->el2.active)) {
        return at_el2(cpu, op, va);
    }
    struct walk w = {.va = va, .no_update = true};
    struct stage1 s1;
    if (!at_decode(cpu, op, &w)) {
        raise_undefined(cpu);
        return STEP_FAULT;
    }
    if (stage1_translate(cpu, &w, &s1)) {
        cpu->st.par_el1 = par_success(&s1);
        return STEP_NEXT;
    }
    if (cpu->exc.target_el == 2) {
        cpu->exc.iss |= ESR_ABORT_CM | ESR_ABORT_WnR;
        return STEP_FAULT;
    }
    cpu->st.par_el1 = par_fault(&cpu->exc);
    return STEP_NEXT;
}
