/*
 * Breakpoints, watchpoints and steps, for the guest and for a debugger outside.
 */
#ifndef PYVMM_CORE_DEBUG_H
#define PYVMM_CORE_DEBUG_H

#include "cpu.h"

void debug_update(struct cpu *cpu); /* after a change of what is to be stopped at, or of the context */
/* Is there a breakpoint at the instruction?  Then it is raised. */
bool debug_break(struct cpu *cpu, uint64_t va);
/* May a watchpoint be in the page?  And is there one in the access?  Then it is raised. */
bool debug_watches_page(const struct cpu *cpu, uint64_t va);
bool debug_watch(struct cpu *cpu, uint64_t va, unsigned size, bool read, bool write, enum mmu_index index);
/* Before guest code goes on at cpu->pc, `executed` instructions into this pe_run().  @return false with cpu->exc raised: a
 * step is done */
bool debug_resume(struct cpu *cpu, uint64_t executed);
/* Software step: may PSTATE.SS be set, as this SPSR has it? */
bool debug_may_step(const struct cpu *cpu, uint64_t spsr);
void debug_step(struct cpu *cpu, uint32_t insn); /* `insn` is executed now; */
void debug_not_stepped(struct cpu *cpu);         /* no, it raised an exception and did nothing */

#endif
