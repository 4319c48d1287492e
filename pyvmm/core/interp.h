/*
 * The interpreter: runs guest code until an exit.
 */
#ifndef PYVMM_CORE_INTERP_H
#define PYVMM_CORE_INTERP_H

#include "cpu.h"

/* From cpu->pc until cpu->exit is filled and cpu->pc is where to resume. */
void interp_run(struct cpu *cpu);

#endif
