/*
 * PSTATE: its fields as one SPSR value, and what follows from the exception level, PSTATE.SP and PSTATE.PAN: which SP is
 * current, which TLBs, and whether floating point traps.  Spec: DDI 0487, "Process state, PSTATE", SPSR_EL1.
 */
#include "pstate.h"

#define CPTR_TFP (1ull << 10)

enum mmu_index mmu_index(const struct cpu *cpu) {
    if (cpu->el == 0 || cpu->unprivileged) {
        return MMU_EL0;
    }
    return cpu->pan ? MMU_EL1_PAN : MMU_EL1;
}

void cpu_select(struct cpu *cpu) {
    cpu->tlb = cpu->tlbs[mmu_index(cpu)];
    cpu->fetch = cpu->fetches[cpu->el];
    cpu->guarded = cpu->guarded_slots[cpu->el];
}

/* fp_trap: the EL that an FP or SIMD instruction traps to now, or 0. */
void fp_access_update(struct cpu *cpu) {
    unsigned enabled = cpu->st.cpacr_el1 >> 20 & 3; /* FPEN: 3 all, 1 EL1 only */
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

enum { PS_SPSEL = 0, PS_EL = 2, PS_BTYPE = 10, PS_SSBS = 12, PS_IL = 20, PS_SS = 21, PS_PAN = 22, PS_UAO = 23, PS_DIT = 24 };

uint64_t cpu_pstate(const struct cpu *cpu) {
    return cpu_nzcv(cpu) | (uint64_t)cpu->dit << PS_DIT | (uint64_t)cpu->uao << PS_UAO | (uint64_t)cpu->pan << PS_PAN |
           (uint64_t)cpu->ss << PS_SS | (uint64_t)cpu->il << PS_IL | (uint64_t)cpu->ssbs << PS_SSBS |
           (uint64_t)cpu_btype(cpu) << PS_BTYPE | cpu->daif | (uint64_t)cpu->el << PS_EL |
           (uint64_t)(cpu->el && cpu->spsel) << PS_SPSEL;
}

void cpu_set_pstate(struct cpu *cpu, uint64_t spsr) {
    cpu_set_nzcv(cpu, (uint32_t)spsr);
    cpu->daif = spsr & 0x3c0;
    cpu->dit = spsr >> PS_DIT & 1;
    cpu->ss = spsr >> PS_SS & 1;
    cpu->il = spsr >> PS_IL & 1;
    cpu->ssbs = spsr >> PS_SSBS & 1;
    cpu->btype = spsr >> PS_BTYPE & 3;
    cpu->pan = spsr >> PS_PAN & 1;
    cpu_set_el(cpu, spsr >> PS_EL & 1, spsr & 1);
}
