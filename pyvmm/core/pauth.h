/*
 * Pointer authentication.  A function that can raise returns false with cpu->exc raised.
 */
#ifndef PYVMM_CORE_PAUTH_H
#define PYVMM_CORE_PAUTH_H

#include "cpu.h"

enum pauth_key { KEY_IA, KEY_IB, KEY_DA, KEY_DB, KEY_GA }; /* bit 0: B, bit 1: data */

void pauth_update(struct cpu *cpu); /* TCR_EL1, SCTLR_EL1 or HCR_EL2 may have changed */
bool pauth_add(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier);
bool pauth_check(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier); /* and strip */
uint64_t pauth_strip(const struct cpu *cpu, uint64_t pointer, bool data);
bool pauth_generic(struct cpu *cpu, uint64_t value, uint64_t modifier, uint64_t *code);

#endif
