/*
 * PSTATE: its fields as one SPSR value, and the state that depends on the exception level, PSTATE.SP and PSTATE.PAN:
 * the current SP, the current TLBs, and whether floating point traps.  Spec: DDI 0487, "Process state, PSTATE",
 * SPSR_EL1.
 */
#include "pstate.h"

unsigned cpu_el_of(const struct cpu *cpu, uint64_t spsr) {
    unsigned el = FIELD(spsr, PSTATE_EL);
    return cpu->st.has_el2 ? el != 0 : el & 1;
}

void cpu_select(struct cpu *cpu) {
    cpu->tlb = cpu->tlbs[mmu_index(cpu)];
    cpu->fetch = cpu->fetches[cpu->el];
    cpu->guarded = cpu->guarded_slots[cpu->el];
    cpu->plain_el = cpu->el;
    if (unlikely(cpu->el2.active) && cpu->el) {
        cpu->plain_el = cpu->el2.e2h ? 2 : 0;
    }
}

/* fp_trap: the EL that an FP or SIMD instruction traps to now, or 0. */
void fp_access_update(struct cpu *cpu) {
    unsigned enabled = FIELD(cpu->st.cpacr_el1, CPACR_FPEN); /* 3 all, 1 EL1 only */
    if (enabled != 3 && !(enabled == 1 && cpu->el)) {
        cpu->fp_trap = 1;
    } else {
        cpu->fp_trap = cpu->st.cptr_el2 & CPTR_TFP ? 2 : 0;
    }
}

static uint64_t *banked_sp(struct cpu *cpu) {
    return cpu->el && cpu->spsel ? &cpu->st.sp_el1 : &cpu->st.sp_el0;
}

void cpu_set_el(struct cpu *cpu, unsigned el, unsigned spsel) {
    *banked_sp(cpu) = cpu->x[X_SP];
    cpu->el = el;
    cpu->spsel = spsel;
    cpu->x[X_SP] = *banked_sp(cpu);
    cpu_select(cpu);
    fp_access_update(cpu);
}

void cpu_set_pan(struct cpu *cpu, bool pan) {
    cpu->pan = pan;
    cpu_select(cpu);
}

uint64_t cpu_pstate(const struct cpu *cpu) {
    return cpu_nzcv(cpu) | AS_FIELD(cpu->dit, PSTATE_DIT) | AS_FIELD(cpu->uao, PSTATE_UAO) |
           AS_FIELD(cpu->pan, PSTATE_PAN) | AS_FIELD(cpu->ss, PSTATE_SS) | AS_FIELD(cpu->il, PSTATE_IL) |
           AS_FIELD(cpu->ssbs, PSTATE_SSBS) | AS_FIELD(cpu_btype(cpu), PSTATE_BTYPE) | cpu->daif |
           AS_FIELD((unsigned)cpu->el << cpu->el2.active, PSTATE_EL) | AS_FIELD(cpu->el && cpu->spsel, PSTATE_SP);
}

void cpu_set_pstate(struct cpu *cpu, uint64_t spsr) {
    cpu_set_nzcv(cpu, (uint32_t)spsr);
    cpu->daif = spsr & PSTATE_DAIF;
    cpu->dit = FIELD(spsr, PSTATE_DIT);
    cpu->ss = FIELD(spsr, PSTATE_SS);
    cpu->il = FIELD(spsr, PSTATE_IL);
    cpu->ssbs = FIELD(spsr, PSTATE_SSBS);
    cpu->btype = FIELD(spsr, PSTATE_BTYPE);
    cpu->pan = FIELD(spsr, PSTATE_PAN);
    cpu_set_el(cpu, cpu_el_of(cpu, spsr), FIELD(spsr, PSTATE_SP));
}
