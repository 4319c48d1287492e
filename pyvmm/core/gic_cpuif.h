/*
 * The virtual GIC CPU interface: interrupts of EL1, and the ICC_* registers behind sysreg.c.
 */
#ifndef PYVMM_CORE_GIC_CPUIF_H
#define PYVMM_CORE_GIC_CPUIF_H

#include "cpu.h"

/* EL2_IRQ and EL2_FIQ are taken to EL2 whatever PSTATE is; WAKE is not taken at this level. */
enum {
    PENDING_IRQ = 1,
    PENDING_FIQ = 2,
    PENDING_SERROR = 4,
    PENDING_EL2_IRQ = 8,
    PENDING_EL2_FIQ = 16,
    PENDING_WAKE = 32
};
unsigned irq_pending(const struct cpu *cpu); /* interrupts that only PSTATE can mask; any of them ends WFI */
unsigned gic_signals(const struct cpu *cpu); /* by the interface in use: PENDING_IRQ, PENDING_FIQ or 0 */
void gic_swap(struct cpu *cpu); /* exchange the two interfaces of a context with EL2: st.ich_* and st.icc_* */
void gic_virtual_changed(struct cpu *cpu); /* at EL2: the virtual interface, whose status must be current */
/* Recompute REQ_IRQ and the maintenance interrupt from list registers, HCR_EL2 and PSTATE. */
void irq_update(struct cpu *cpu);
void irq_mask_changed(struct cpu *cpu);      /* the part of irq_update() for a change of PSTATE.DAIF */
uint64_t gic_read_IAR(struct cpu *cpu, unsigned group);
uint64_t gic_read_HPPIR(struct cpu *cpu, unsigned group);
uint64_t gic_read_BPR(struct cpu *cpu, unsigned group);
uint64_t gic_read_RPR(struct cpu *cpu);
uint64_t gic_read_CTLR(struct cpu *cpu);
void gic_write_EOIR(struct cpu *cpu, unsigned group, uint64_t value);
void gic_write_BPR(struct cpu *cpu, unsigned group, uint64_t value);
void gic_write_DIR(struct cpu *cpu, uint64_t value);
void gic_write_CTLR(struct cpu *cpu, uint64_t value);
void gic_reset(struct pe_state *state);
uint64_t gic_vmcr(uint64_t value); /* ICH_VMCR_EL2 after a write of the value */
/* Write one field of ICH_VMCR_EL2: its mask, and the value at its position. */
void gic_write_vmcr(struct cpu *cpu, uint64_t field, uint64_t value);

#endif
