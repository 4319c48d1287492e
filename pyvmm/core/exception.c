/*
 * Exceptions: the instructions that raise them, taking them, and returning from them.
 *
 * Taking an exception translates cpu->exc (raise.c) to EL1 state, or to an exit for EL2 or for an external debugger.
 * Spec: DDI 0487 AArch64.TakeException, ESR_EL1, ESR_EL2, AArch64.ExceptionReturn.
 * Debug exceptions other than BRK are raised in debug.c.
 */
#include "exception.h"

#include "debug.h"
#include "el2.h"
#include "gic_cpuif.h"
#include "pmu.h"
#include "pstate.h"
#include "raise.h"
#include "regime.h"

/* ---- instructions that raise ---- */

static enum step raised(struct cpu *cpu, unsigned target_el, unsigned ec, uint64_t iss) {
    raise_exception(cpu, target_el, ec, iss);
    return STEP_FAULT;
}

enum step exception_svc(struct cpu *cpu, uint32_t imm16) {
    cpu->pc += 4;
    return raised(cpu, 1, EC_SVC64, imm16);
}

enum step exception_hvc(struct cpu *cpu, uint32_t imm16) {
    if (cpu->el == 0 || cpu->st.hcr_el2 & HCR_HCD) {
        return raised(cpu, 1, EC_UNKNOWN, 0);
    }
    cpu->pc += 4;
    return raised(cpu, 2, EC_HVC64, imm16);
}

/* EL1 alone has no EL3: an SMC that EL2 does not trap is UNDEFINED.  With EL2 it is for the software at EL3. */
enum step exception_smc(struct cpu *cpu, uint32_t imm16) {
    if (unlikely(cpu->st.has_el2) && cpu->el && !(cpu->st.hcr_el2 & HCR_TSC)) {
        return raised(cpu, TARGET_OUTSIDE, EC_SMC64, imm16);
    }
    if (cpu->el == 0 || !(cpu->st.hcr_el2 & HCR_TSC)) {
        return raised(cpu, 1, EC_UNKNOWN, 0);
    }
    return raised(cpu, 2, EC_SMC64, imm16);
}

enum step exception_brk(struct cpu *cpu, uint32_t imm16) {
    return raised(cpu, cpu->st.mdcr_el2 & MDCR_TDE ? 2 : 1, EC_BRK64, imm16);
}

/* ---- the syndrome of an emulatable access ---- */

static uint32_t access_syndrome(uint32_t w, unsigned size, bool sign_extended, bool sf, bool acquire_release) {
    return ESR_ABORT_ISV | AS_FIELD(size, ESR_ABORT_SAS) | AS_FIELD(sign_extended, ESR_ABORT_SSE) |
           AS_FIELD(bits(w, 0, 5), ESR_ABORT_SRT) | AS_FIELD(sf, ESR_ABORT_SF) |
           AS_FIELD(acquire_release, ESR_ABORT_AR);
}

/* ISV, SAS, SSE, SRT, SF, AR of a load or store of one general register without writeback; otherwise 0. */
static uint32_t data_syndrome(uint32_t w) {
    unsigned size = bits(w, 30, 2), opc = bits(w, 22, 2);
    bool sf = opc == 2 || (opc < 2 && size == 3);
    if (bits(w, 24, 6) == 0x39) { /* unsigned offset */
        return access_syndrome(w, size, opc >= 2, sf, false);
    }
    if (bits(w, 24, 6) == 0x38) {
        unsigned form = bits(w, 21, 1) << 2 | bits(w, 10, 2);
        if (form == 0 || form == 2 || form == 6) { /* unscaled, unprivileged, register offset */
            return access_syndrome(w, size, opc >= 2, sf, false);
        }
        if (form == 4 && (w & 0x00fffc00) == 0x00bfc000) { /* LDAPR */
            return access_syndrome(w, size, false, size == 3, true);
        }
        return 0;
    }
    if (bits(w, 24, 6) == 0x18 && size < 3) { /* LDR (literal): opc is at the position of size */
        return access_syndrome(w, size == 1 ? 3 : 2, size == 2, size > 0, false);
    }
    if (bits(w, 24, 6) == 0x08 && (w & 0x00a08000) == 0x00808000) { /* LDAR, STLR */
        return access_syndrome(w, size, false, size == 3, true);
    }
    return 0;
}

/* Stage-2 data aborts of the instruction's own access describe the access for emulation. */
static uint32_t instruction_syndrome(const struct exception *exc, uint32_t insn) {
    unsigned fsc = FIELD(exc->iss, ESR_ABORT_FSC);
    bool stage2 = exc->ec == EC_DATA_ABORT_LOWER && fsc < FSC_SYNC_EXTERNAL;
    return stage2 && !(exc->iss & (ESR_ABORT_S1PTW | ESR_ABORT_CM)) ? data_syndrome(insn) : 0;
}

/* ---- taking ---- */

static uint64_t syndrome(const struct exception *exc, uint64_t iss) {
    return AS_FIELD(exc->ec, ESR_EC) | AS_FIELD(!exc->il16, ESR_IL) | iss;
}

/* AArch64.TakeException to the level of the regime that runs, whose registers are those of EL1 (el2.c). */
static void enter(struct cpu *cpu, unsigned vector, uint64_t spsr) {
    uint64_t sctlr = cpu->st.sctlr_el1;
    cpu->st.spsr_el1 = spsr;
    cpu->st.elr_el1 = cpu->pc;
    cpu->daif = PSTATE_DAIF;
    cpu->il = cpu->ss = cpu->uao = 0;
    cpu->btype = 0;
    cpu->debug.step_iss = 0;
    cpu->ssbs = FIELD(sctlr, SCTLR_DSSBS);
    if (!(sctlr & SCTLR_SPAN) && (likely(!cpu->el2.active) || (cpu->el2.e2h && cpu->el2.tge))) {
        cpu->pan = 1;
    }
    pmu_event(cpu, PMU_EXC_TAKEN);
    cpu_set_el(cpu, 1, 1);
    pmu_update_if_on(cpu);
    cpu->pc = (cpu->st.vbar_el1 & ~0x7ffull) + vector;
    irq_mask_changed(cpu);
}

static void enter_el1(struct cpu *cpu, unsigned vector) {
    vector += cpu->el == 0 ? VECTOR_LOWER_A64 : cpu->spsel ? VECTOR_CURRENT_SPX : 0;
    enter(cpu, vector, cpu_pstate(cpu));
}

/* From the regime of EL1. */
static void enter_el2(struct cpu *cpu, unsigned vector) {
    uint64_t spsr = cpu_pstate(cpu);
    el2_switch(cpu, true);
    enter(cpu, vector + VECTOR_LOWER_A64, spsr);
    irq_update(cpu);
}

/* Does an exception to the level above EL0, or to EL2, change the regime? */
static bool changes_regime(const struct cpu *cpu, unsigned target_el) {
    return cpu->st.has_el2 && !cpu->el2.active && (target_el == 2 || (cpu->el == 0 && cpu->el2.tge));
}

static bool sets_far(unsigned ec) {
    return (ec >= EC_INSTRUCTION_ABORT_LOWER && ec <= EC_DATA_ABORT_SAME) || ec == EC_PC_ALIGNMENT ||
           (ec & ~1u) == EC_WATCHPOINT_LOWER;
}

/* Exceptions with the instruction's own BTYPE in SPSR.BTYPE.  For the others it may be 0, and is 0, so that a
 * hypervisor that emulates the instruction and continues after it need not handle BTYPE. */
static bool keeps_btype(unsigned ec) {
    switch (ec) {
    case EC_BRANCH_TARGET:
    case EC_ILLEGAL_STATE:
    case EC_INSTRUCTION_ABORT_LOWER:
    case EC_INSTRUCTION_ABORT_SAME:
    case EC_PC_ALIGNMENT:
    case EC_BREAKPOINT_LOWER:
    case EC_BREAKPOINT_LOWER + 1: /* from the same level */
    case EC_SOFTWARE_STEP_LOWER:
    case EC_SOFTWARE_STEP_LOWER + 1:
    case EC_BRK64: return true;
    default: return false;
    }
}

enum step exception_take(struct cpu *cpu, uint32_t insn) {
    const struct exception *exc = &cpu->exc;
    pmu_exception(cpu, exc->ec == EC_SVC64 || exc->ec == EC_HVC64);
    cpu->btype = keeps_btype(exc->ec) ? cpu_btype(cpu) : 0;
    cpu->btype_at = BTYPE_ANY; /* until it is 0 or another one is set */
    if (exc->target_el > 2 || (exc->target_el == 2 && likely(!cpu->st.has_el2))) {
        cpu->exit->reason = exc->target_el == TARGET_DEBUGGER ? CORE_EXIT_DEBUG : CORE_EXIT_SYNC;
        cpu->exit->esr = syndrome(exc, exc->iss | instruction_syndrome(exc, insn));
        cpu->exit->far = exc->far;
        cpu->exit->hpfar = exc->hpfar;
        return STEP_EXIT;
    }
    uint64_t esr = syndrome(exc, exc->iss);
    if (unlikely(cpu->st.has_el2) && changes_regime(cpu, exc->target_el)) {
        esr |= instruction_syndrome(exc, insn);
        cpu->st.hpfar_el2 = exc->hpfar;
        enter_el2(cpu, 0);
    } else {
        enter_el1(cpu, 0);
    }
    cpu->st.esr_el1 = esr;
    if (sets_far(exc->ec)) {
        cpu->st.far_el1 = exc->far;
    }
    return STEP_JUMP;
}

enum step exception_irq(struct cpu *cpu) {
    unsigned pending = irq_pending(cpu);
    pmu_exception(cpu, false);
    if (unlikely(pending & (PENDING_EL2_IRQ | PENDING_EL2_FIQ))) {
        enter_el2(cpu, pending & PENDING_EL2_IRQ ? VECTOR_IRQ : VECTOR_FIQ);
    } else if (pending & PENDING_SERROR && !(cpu->daif & PSTATE_A)) {
        cpu->st.hcr_el2 &= ~HCR_VSE;
        cpu->st.esr_el1 = AS_FIELD(EC_SERROR, ESR_EC) | ESR_IL;
        enter_el1(cpu, VECTOR_SERROR);
    } else if (pending & PENDING_FIQ && !(cpu->daif & PSTATE_F)) {
        enter_el1(cpu, VECTOR_FIQ);
    } else if (pending & PENDING_IRQ && !(cpu->daif & PSTATE_I)) {
        enter_el1(cpu, VECTOR_IRQ);
    } else {
        irq_mask_changed(cpu);
    }
    return STEP_JUMP;
}

/* ---- returning ---- */

uint64_t branch_address(const struct cpu *cpu, uint64_t target) {
    return top_byte_ignored(cpu, target, true) ? (uint64_t)sign_extend(target, 56) : target;
}

/* M[4:0] that this level may return to: EL0t, EL1t, EL1h, from EL2 also EL2t and EL2h, all AArch64. */
static bool return_is_legal(const struct cpu *cpu, uint64_t spsr) {
    unsigned mode = FIELD(spsr, PSTATE_MODE);
    bool is_el1 = mode == EL1T || mode == EL1H;
    if (unlikely(cpu->el2.active)) {
        return mode == EL0T || mode == EL2T || mode == EL2H || (is_el1 && !cpu->el2.tge);
    }
    return mode == EL0T || is_el1;
}

static bool leaves_el2(const struct cpu *cpu, uint64_t spsr) {
    unsigned el = FIELD(spsr, PSTATE_EL);
    return el == 1 || (el == 0 && !(cpu->el2.e2h && cpu->el2.tge));
}

enum step exception_return(struct cpu *cpu, uint64_t target) {
    if (cpu->el == 0) {
        return raised(cpu, 1, EC_UNKNOWN, 0);
    }
    uint64_t spsr = cpu->st.spsr_el1;
    if (!return_is_legal(cpu, spsr)) { /* stay here, with the rest of PSTATE restored and IL set */
        unsigned mode = cpu->el2.active ? EL2T : EL1T;
        spsr = (spsr & ~PSTATE_MODE) | PSTATE_IL | mode | AS_FIELD(cpu->spsel, PSTATE_SP);
    }
    if (unlikely(spsr & PSTATE_SS) && !debug_may_step(cpu, spsr)) {
        spsr &= ~PSTATE_SS;
    }
    cpu->excl_va = ~0ull;
    cpu->debug.step_iss = 0;
    pmu_exception_return(cpu);
    bool changes = unlikely(cpu->el2.active) && leaves_el2(cpu, spsr);
    if (changes) {
        el2_switch(cpu, false);
    }
    cpu_set_pstate(cpu, spsr);
    pmu_update_if_on(cpu);
    cpu->btype_at = (int64_t)(cpu->icount + 1) << 4;
    cpu->pc = branch_address(cpu, target);
    (changes ? irq_update : irq_mask_changed)(cpu);
    return STEP_JUMP;
}
