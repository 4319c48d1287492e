/*
 * The performance monitors.
 *
 * An instruction takes one cycle.  Cycles and instructions are counted when somebody looks: at a change of the
 * exception level, at an access to a register of the PMU, at a poll and at the end of a run.  Rare events are counted
 * as they occur.  Loads, stores and branches are counted by the interpreter, which executes everything while a counter
 * counts one of them.
 */
#ifndef PYVMM_CORE_PMU_H
#define PYVMM_CORE_PMU_H

#include "cpu.h"

/* Call these around a run. */
void pmu_enter(struct cpu *cpu);
void pmu_leave(struct cpu *cpu);

/* Count cycles and instructions up to a cpu->icount. */
void pmu_sync(struct cpu *cpu, uint64_t executed);
/* After a change of the exception level or of a register: what is counted from now on. */
void pmu_update(struct cpu *cpu);
/* The number of event counters that EL1 may access. */
unsigned pmu_num_counters(const struct cpu *cpu);
/* Count an event in these counters, each if it counts that event now. */
void pmu_count(struct cpu *cpu, enum pmu_event event, uint32_t counters, uint64_t count);
/* Raise or lower the output after a change of PMCR_EL0, PMOVSSET_EL0 or PMINTENSET_EL1. */
void pmu_update_output(struct cpu *cpu);
/* The instruction `word` is about to be executed. */
void pmu_step(struct cpu *cpu, uint32_t word);
/* Instructions until a counter of cycles or instructions overflows, at least 1. */
int64_t pmu_left(const struct cpu *cpu);

static INLINE void pmu_update_if_on(struct cpu *cpu) {
    if (unlikely(cpu->pmu.is_on)) {
        pmu_update(cpu);
    }
}

static INLINE void pmu_event(struct cpu *cpu, enum pmu_event event) {
    if (unlikely(cpu->pmu.events >> event & 1)) {
        pmu_count(cpu, event, cpu->pmu.counters, 1);
    }
}

/* An exception is about to be taken, with cpu->icount = the instructions before the one that causes it. */
void pmu_exception(struct cpu *cpu, bool is_retired);
/* An exception return is about to be performed by the instruction after cpu->icount others. */
void pmu_exception_return(struct cpu *cpu);

/* Before the next instruction, with a current cpu->icount. */
static INLINE void pmu_resume(struct cpu *cpu) {
    if (unlikely(cpu->pmu.excepted)) {
        cpu->pmu.excepted = false;
        cpu->pmu.counted = cpu->icount;
    }
}

#endif
