/*
 * WFI, and the events that end it.
 */
#ifndef PYVMM_CORE_WAIT_H
#define PYVMM_CORE_WAIT_H

#include "cpu.h"

void cpu_sleep(struct cpu *cpu); /* WFI: until an interrupt, a request or the timer */
void cpu_wake(struct cpu *cpu);  /* call it after a request from another thread */

#endif
