/*
 * Invalidations across PEs.
 */
#ifndef PYVMM_CORE_INVAL_H
#define PYVMM_CORE_INVAL_H

#include "cpu.h"

void cpu_serve_invalidations(struct cpu *cpu);
void cpu_post_inval(struct cpu *from, struct inval what, bool others_only); /* does not wait: DSB does */
void machine_post_inval(struct machine *machine, struct inval what);        /* to every PE, and wait */
void cpu_wait_invalidations(struct cpu *cpu);                               /* DSB: until all that this PE posted is served */
void cpu_enter_guest(struct cpu *cpu);
void cpu_leave_guest(struct cpu *cpu);

#endif
