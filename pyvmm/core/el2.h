/*
 * Contexts with EL2: the change between the regime of EL2 and that of EL1, and the controls of EL2.
 */
#ifndef PYVMM_CORE_EL2_H
#define PYVMM_CORE_EL2_H

#include "cpu.h"

void el2_load(struct cpu *cpu);  /* after cpu->st has been copied in: every register has its own name */
void el2_store(struct cpu *cpu); /* before cpu->st is copied out: the same again */
/* Enter the regime of EL2 or that of EL1, at the same PSTATE: its registers, controls, TLBs and interface of the GIC.
 * The caller calls irq_update() when PSTATE is complete. */
void el2_switch(struct cpu *cpu, bool active);
/* At EL2: the next three are what a write of the register does. */
void el2_write_hcr(struct cpu *cpu, uint64_t value);
void el2_write_sctlr(struct cpu *cpu, uint64_t value);
void el2_write_tcr(struct cpu *cpu, uint64_t value);
void el2_controls_changed(struct cpu *cpu); /* MDCR_EL2, CPTR_EL2 or CNTHCTL_EL2 in cpu->el2 */
/* Interrupts of the physical interface go to EL2, or are EL2's own. */
bool el2_takes_interrupts(const struct cpu *cpu);

#endif
