/*
 * System instructions.
 *
 * `encoding` as in sysreg.h; cpu->pc is the instruction's own address.
 */
#ifndef PYVMM_CORE_SYSINSN_H
#define PYVMM_CORE_SYSINSN_H

#include "cpu.h"

enum step sys_insn(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t value);
enum step sysl_insn(struct cpu *cpu, uint32_t encoding, unsigned rt);

#endif
