/*
 * PSTATE: its fields, the condition flags, and the state that depends on the exception level.
 */
#ifndef PYVMM_CORE_PSTATE_H
#define PYVMM_CORE_PSTATE_H

#include "cpu.h"

uint64_t cpu_pstate(const struct cpu *cpu);                    /* SPSR layout, M from el/spsel */
void cpu_set_pstate(struct cpu *cpu, uint64_t spsr); /* also banks SP and selects TLB, fetch TLB, fp_trap */
void cpu_set_el(struct cpu *cpu, unsigned el, unsigned spsel); /* banks SP, selects TLBs, updates fp_trap */
unsigned cpu_el_of(const struct cpu *cpu, uint64_t spsr); /* cpu->el of an SPSR's level */
void cpu_set_pan(struct cpu *cpu, bool pan);
void cpu_select(struct cpu *cpu); /* the TLBs of the current EL */
void fp_access_update(struct cpu *cpu); /* after a change of CPACR_EL1, CPTR_EL2 or the EL */

/* For the current EL and PAN.  Inline, so that the slow path of a load or store makes one call. */
static INLINE enum mmu_index mmu_index(const struct cpu *cpu) {
    if (cpu->el == 0 || cpu->unprivileged) {
        return MMU_EL0;
    }
    return cpu->pan ? MMU_EL1_PAN : MMU_EL1;
}

/*
 * PSTATE.BTYPE costs a branch only two stores: an indirect branch also stores the number of the instruction to which
 * it applies.  BTYPE_ANY: it applies to the one at cpu->pc, with any number.
 */
#define BTYPE_ANY (-1ll)
static INLINE unsigned cpu_btype(const struct cpu *cpu) {
    bool holds = cpu->btype_at == (int64_t)cpu->icount << 4 || cpu->btype_at == BTYPE_ANY;
    return holds && cpu->machine->features & FEATURE_BTI ? cpu->btype : 0;
}

/* Flags from the result of an operation. */
static INLINE void set_nz64(struct cpu *cpu, uint64_t result) {
    cpu->nf = cpu->zf = result;
}
static INLINE void set_nz32(struct cpu *cpu, uint32_t result) {
    cpu->nf = cpu->zf = (uint64_t)(int64_t)(int32_t)result;
}
static INLINE uint32_t cpu_nzcv(const struct cpu *cpu) { /* NZCV in bits 31:28 */
    return (uint32_t)(AS_FIELD(cpu->nf >> 63, PSTATE_N) | AS_FIELD(cpu->zf == 0, PSTATE_Z) |
                      AS_FIELD(cpu->cf, PSTATE_C) | AS_FIELD(cpu->vf, PSTATE_V));
}
static INLINE void cpu_set_nzcv(struct cpu *cpu, uint32_t nzcv) {
    cpu->nf = (uint64_t)FIELD(nzcv, PSTATE_N) << 63;
    cpu->zf = !FIELD(nzcv, PSTATE_Z);
    cpu->cf = FIELD(nzcv, PSTATE_C);
    cpu->vf = FIELD(nzcv, PSTATE_V);
}

#endif
