/*
 * Address translation instructions of stage 1: AT S1E0R, S1E0W, S1E1R, S1E1W, S1E1RP, S1E1WP.
 *
 * The result or fault of stage 1 goes to PAR_EL1; a stage-2 fault at a table access, or a GPC fault, is an exception
 * to EL2.
 * Spec: DDI 0487, AArch64.AT, PAR_EL1.
 */
#include "at.h"

#include "raise.h"
#include "walk_s1.h"

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

enum step at_insn(struct cpu *cpu, unsigned op, uint64_t va) {
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
