/*
 * Raising an exception: cpu->exc has its cause and target.  Nothing else changes; exception.c takes it.
 *
 * Spec: DDI 0487 ESR_EL1, ESR_EL2, AArch64.Abort, "Routing synchronous External aborts".
 */
#include "raise.h"

#include "pstate.h"
#include "walk.h"

bool raise_exception(struct cpu *cpu, unsigned target_el, unsigned ec, uint64_t iss) {
    cpu->exc = (struct exception){.target_el = target_el, .ec = ec, .iss = iss};
    return false;
}

bool raise_undefined(struct cpu *cpu) {
    return raise_exception(cpu, 1, EC_UNKNOWN, 0);
}

bool raise_illegal_state(struct cpu *cpu) {
    return raise_exception(cpu, 1, EC_ILLEGAL_STATE, 0);
}

bool raise_branch_target(struct cpu *cpu) {
    return raise_exception(cpu, 1, EC_BRANCH_TARGET, cpu_btype(cpu));
}

bool raise_sp_alignment(struct cpu *cpu) {
    return raise_exception(cpu, 1, EC_SP_ALIGNMENT, 0);
}

bool raise_pc_alignment(struct cpu *cpu) {
    raise_exception(cpu, 1, EC_PC_ALIGNMENT, 0);
    cpu->exc.far = cpu->pc;
    return false;
}

/* Granule protection faults go to EL2, regardless of the table: only the owner of the GPT can fix them. */
static bool abort_is_for_el2(const struct cpu *cpu, unsigned fsc, bool stage2) {
    bool protection = fsc >= FSC_GPF_WALK && fsc <= FSC_GPF;
    bool external = fsc == FSC_SYNC_EXTERNAL || (fsc >= FSC_SYNC_EXTERNAL_WALK && fsc < FSC_SYNC_EXTERNAL_WALK + 4);
    if (unlikely(cpu->st.has_el2)) {
        protection = protection && cpu->el2.hcr & HCR_GPF;
    }
    return !cpu->el2.active && (stage2 || protection || (external && cpu->st.hcr_el2 & HCR_TEA));
}

bool raise_abort(struct cpu *cpu, bool fetch, bool write, uint64_t va, unsigned fsc, bool stage2, uint64_t ipa,
                 bool s1ptw) {
    unsigned target_el = abort_is_for_el2(cpu, fsc, stage2) ? 2 : 1;
    unsigned ec = (fetch ? EC_INSTRUCTION_ABORT_LOWER : EC_DATA_ABORT_LOWER) + (cpu->el == target_el);
    raise_exception(cpu, target_el, ec, fsc | (s1ptw ? ESR_ABORT_S1PTW : 0) | (!fetch && write ? ESR_ABORT_WnR : 0));
    cpu->exc.far = va;
    cpu->exc.hpfar = stage2 ? AS_FIELD((ipa & S2_DESC_OA) >> GRANULE_SHIFT, HPFAR_FIPA) : 0;
    return false;
}

bool raise_outside(struct cpu *cpu, bool fetch, bool write, uint64_t va, uint64_t pa) {
    raise_exception(cpu, TARGET_OUTSIDE, fetch ? EC_INSTRUCTION_ABORT_LOWER : EC_DATA_ABORT_LOWER,
                    FSC_TRANSLATION | (!fetch && write ? ESR_ABORT_WnR : 0));
    cpu->exc.far = va;
    cpu->exc.hpfar = AS_FIELD((pa & S2_DESC_OA) >> GRANULE_SHIFT, HPFAR_FIPA);
    return false;
}

bool raise_alignment(struct cpu *cpu, uint64_t va, bool write) {
    return raise_abort(cpu, false, write, va, FSC_ALIGNMENT, false, 0, false);
}

bool raise_sysreg(struct cpu *cpu, unsigned target_el, uint32_t encoding, unsigned rt, bool read) {
    unsigned op0 = encoding >> 14, op1 = encoding >> 11 & 7, crn = encoding >> 7 & 15;
    unsigned crm = encoding >> 3 & 15, op2 = encoding & 7;
    uint64_t iss = AS_FIELD(op0, ESR_SYSREG_OP0) | AS_FIELD(op2, ESR_SYSREG_OP2) | AS_FIELD(op1, ESR_SYSREG_OP1) |
                   AS_FIELD(crn, ESR_SYSREG_CRN) | AS_FIELD(rt, ESR_SYSREG_RT) | AS_FIELD(crm, ESR_SYSREG_CRM) |
                   AS_FIELD(read, ESR_SYSREG_READ);
    return raise_exception(cpu, target_el, EC_SYSREG, iss);
}
