/*
 * Address translation instructions.
 */
#ifndef PYVMM_CORE_AT_H
#define PYVMM_CORE_AT_H

#include "cpu.h"

enum step at_insn(struct cpu *cpu, unsigned op, uint64_t va); /* op = op1<<4 | CRm[0]<<3 | op2 */

#endif
