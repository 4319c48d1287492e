/*
 * The generic timer.
 */
#ifndef PYVMM_CORE_TIMER_H
#define PYVMM_CORE_TIMER_H

#include "cpu.h"

enum { COUNTER_FREQUENCY = 62500000, INSTRUCTIONS_PER_TICK = 4 };
enum { CLOCK_REAL, CLOCK_VIRTUAL, CLOCK_EXACT }; /* machine_new() */
enum timer { TIMER_VIRTUAL, TIMER_PHYSICAL, TIMER_HYP_PHYSICAL, TIMER_HYP_VIRTUAL, NUM_TIMERS };

uint64_t timer_counter(struct machine *machine, const struct cpu *cpu); /* CNTPCT */
uint64_t *timer_control(struct cpu *cpu, enum timer timer);
uint64_t *timer_compare(struct cpu *cpu, enum timer timer);
uint64_t timer_count(const struct cpu *cpu, enum timer timer);
/* Call this before the first instruction of a run: the caller knows the outputs as in the context. */
void timer_enter(struct cpu *cpu);
/* Update ISTATUS and REQ_LEAVE.  @return ns (real) or ticks (virtual) until the next output edge, INT64_MAX if none */
int64_t timer_poll(struct cpu *cpu);
/* Exact clock: timer_poll(), and the instructions until the next output edge. */
int64_t timer_instructions_left(struct cpu *cpu);

#endif
