/*
 * Posting invalidations.
 */
#ifndef PYVMM_CORE_INVAL_H
#define PYVMM_CORE_INVAL_H

#include "cpu.h"

void cpu_post_inval(struct cpu *from, struct inval what, bool others_only); /* does not wait; DSB waits */
void machine_post_inval(struct machine *machine, struct inval what);        /* to every PE, and wait */
/* Has the PE performed the requests up to this ticket, or will it before it runs an instruction? */
bool inval_is_served(struct cpu *cpu, uint64_t ticket);

#endif
