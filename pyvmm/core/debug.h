/*
 * Breakpoints, watchpoints and steps, for the guest and for an external debugger.
 */
#ifndef PYVMM_CORE_DEBUG_H
#define PYVMM_CORE_DEBUG_H

#include "cpu.h"

void debug_update(struct cpu *cpu); /* after a change of the debug settings or of the context */
/* Check for a breakpoint at the instruction, and raise it. */
bool debug_break(struct cpu *cpu, uint64_t va);
/* Check for a possible watchpoint in the page; and for one in the access, and raise it. */
bool debug_watches_page(const struct cpu *cpu, uint64_t va);
bool debug_watch(struct cpu *cpu, uint64_t va, unsigned size, bool read, bool write, enum mmu_index index);
/* Call this before guest code continues at cpu->pc, `executed` instructions into this pe_run().  @return false with
 * cpu->exc raised: a step is complete */
bool debug_resume(struct cpu *cpu, uint64_t executed);
/* Software step: may PSTATE.SS be set, as this SPSR has it? */
bool debug_may_step(const struct cpu *cpu, uint64_t spsr);
void debug_step(struct cpu *cpu, uint32_t insn); /* `insn` is about to be executed; */
void debug_not_stepped(struct cpu *cpu);         /* it raised an exception and had no effect */

#endif
