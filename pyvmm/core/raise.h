/*
 * Raising an exception.  cpu->pc is the address of the instruction at every call.  A raise_*() always returns false.
 */
#ifndef PYVMM_CORE_RAISE_H
#define PYVMM_CORE_RAISE_H

#include "cpu.h"

bool raise_exception(struct cpu *cpu, unsigned target_el, unsigned ec, uint64_t iss);
bool raise_undefined(struct cpu *cpu);
bool raise_sp_alignment(struct cpu *cpu);
bool raise_pc_alignment(struct cpu *cpu);
bool raise_illegal_state(struct cpu *cpu);
bool raise_branch_target(struct cpu *cpu);
bool raise_abort(struct cpu *cpu, bool fetch, bool write, uint64_t va, unsigned fsc, bool stage2, uint64_t ipa,
                 bool s1ptw);
/* An access of a context with EL2 to a physical address outside DRAM: the caller of pe_run() performs it. */
bool raise_outside(struct cpu *cpu, bool fetch, bool write, uint64_t va, uint64_t pa);
bool raise_alignment(struct cpu *cpu, uint64_t va, bool write); /* data accesses */
/* A trapped access to a system register, or a trapped system instruction; `encoding` as in sysreg.h. */
bool raise_sysreg(struct cpu *cpu, unsigned target_el, uint32_t encoding, unsigned rt, bool read);

#endif
