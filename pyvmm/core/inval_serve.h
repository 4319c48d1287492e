/*
 * Performing invalidations.
 */
#ifndef PYVMM_CORE_INVAL_SERVE_H
#define PYVMM_CORE_INVAL_SERVE_H

#include "cpu.h"

void cpu_serve_invalidations(struct cpu *cpu);
void cpu_wait_invalidations(struct cpu *cpu); /* DSB: wait until all invalidations posted by this PE are served */
void cpu_enter_guest(struct cpu *cpu);
void cpu_leave_guest(struct cpu *cpu);

#endif
