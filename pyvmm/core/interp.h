/*
 * The interpreter: runs guest code until an exit.
 */
#ifndef PYVMM_CORE_INTERP_H
#define PYVMM_CORE_INTERP_H

#include "cpu.h"

/* Run from cpu->pc until cpu->exit is filled and cpu->pc is the address at which to resume. */
void interp_run(struct cpu *cpu);

#endif
