/*
 * System registers.
 *
 * An `encoding` is op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2; `rt` is the number in the instruction, for the syndrome.
 * cpu->pc is the instruction's own address at every call.
 */
#ifndef PYVMM_CORE_SYSREG_H
#define PYVMM_CORE_SYSREG_H

#include "cpu.h"

#define ENCODE(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))

/* IMPLEMENTATION DEFINED encodings of registers and instructions; none is implemented. */
static inline bool is_implementation_defined(uint32_t encoding) {
    unsigned op0 = encoding >> 14, crn = encoding >> 7 & 15;
    return op0 & 1 && (crn == 11 || crn == 15);
}

enum step sysreg_read(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t *value);
enum step sysreg_write(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t value);
enum step sysreg_msr_imm(struct cpu *cpu, unsigned op1, unsigned op2, unsigned imm);
/* The register's value after a write: RES1 bits are set, unimplemented bits are clear. */
uint64_t sysreg_written(const struct cpu *cpu, uint32_t encoding, uint64_t value);
/* Is it, at this EL, plain 64-bit storage at *offset in struct cpu that can never trap? */
bool sysreg_plain(uint32_t encoding, bool write, unsigned el, size_t *offset);
bool sysreg_allows_zva(const struct cpu *cpu); /* DC ZVA neither traps nor is prohibited at this EL */

#endif
