/*
 * Taking exceptions, returning from them, and the instructions that raise them.
 */
#ifndef PYVMM_CORE_EXCEPTION_H
#define PYVMM_CORE_EXCEPTION_H

#include "cpu.h"

/* Take cpu->exc with cpu->pc = address of the instruction (for SVC/HVC the caller has
 * adjusted cpu->pc to the preferred return address).  To EL1: sets ESR/FAR/ELR/SPSR,
 * PSTATE, cpu->pc = vector; returns STEP_JUMP.  To EL2: fills cpu->exit; returns STEP_EXIT.
 * `insn`: the word of the instruction, for the ISV syndrome of a stage-2 data abort. */
enum step exception_take(struct cpu *cpu, uint32_t insn);
/* Take the pending virtual IRQ, FIQ or SError to EL1; cpu->pc = interrupted instruction. */
enum step exception_irq(struct cpu *cpu);

/* cpu->pc is the address of the instruction. */
enum step exception_svc(struct cpu *cpu, uint32_t imm16);
enum step exception_hvc(struct cpu *cpu, uint32_t imm16);
enum step exception_smc(struct cpu *cpu, uint32_t imm16);
enum step exception_brk(struct cpu *cpu, uint32_t imm16);
enum step exception_return(struct cpu *cpu, uint64_t target);
uint64_t branch_address(const struct cpu *cpu, uint64_t target); /* AArch64.BranchAddr at the current EL */

#endif
