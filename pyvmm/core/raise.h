/*
 * Raising an exception.  cpu->pc is the address of the instruction at every call.  A raise_*() always returns false.
 */
#ifndef PYVMM_CORE_RAISE_H
#define PYVMM_CORE_RAISE_H

#include "cpu.h"

enum exception_class {
    EC_UNKNOWN = 0x00,
    EC_BRANCH_TARGET = 0x0d,
    EC_ILLEGAL_STATE = 0x0e,
    EC_SVC = 0x15,
    EC_HVC = 0x16,
    EC_SMC = 0x17,
    EC_SYSREG = 0x18,
    EC_INSTRUCTION_ABORT = 0x20, /* from a lower EL; + 1: from the same */
    EC_PC_ALIGNMENT = 0x22,
    EC_DATA_ABORT = 0x24,
    EC_SP_ALIGNMENT = 0x26,
    EC_SERROR = 0x2f,
    EC_BREAKPOINT = 0x30,
    EC_SOFTWARE_STEP = 0x32,
    EC_WATCHPOINT = 0x34,
    EC_BRK = 0x3c,
};

bool raise_exception(struct cpu *cpu, unsigned target_el, unsigned ec, uint64_t iss);
bool raise_undefined(struct cpu *cpu);
bool raise_sp_alignment(struct cpu *cpu);
bool raise_pc_alignment(struct cpu *cpu);
bool raise_illegal_state(struct cpu *cpu);
bool raise_branch_target(struct cpu *cpu);
bool raise_abort(struct cpu *cpu, bool fetch, bool write, uint64_t va, unsigned fsc, bool stage2, uint64_t ipa, bool s1ptw);
bool raise_alignment(struct cpu *cpu, uint64_t va, bool write); /* of data */
/* A trapped access to a system register, or a trapped system instruction; `encoding` as in sysreg.h. */
bool raise_sysreg(struct cpu *cpu, unsigned target_el, uint32_t encoding, unsigned rt, bool read);

#endif
