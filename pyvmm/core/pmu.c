/*
 * The performance monitors: what is counted, in which counter, and its overflow.
 *
 * Counters from HPMN on are EL2's, which runs no code here: they neither count nor can be accessed.
 * Spec: DDI 0487, "The Performance Monitors Extension", AArch64.CountPMUEvents.
 */
#include "pmu.h"

#define EVENT(name) (1ull << PMU_##name)

enum { CYCLES = 1u << CYCLE_COUNTER };
#define STEP_EVENTS                                                                                                   \
    (EVENT(LD_RETIRED) | EVENT(ST_RETIRED) | EVENT(MEM_ACCESS) | EVENT(BR_RETIRED) | EVENT(BR_IMMED_RETIRED) |        \
     EVENT(BR_RETURN_RETIRED))

/* ---- counters ---- */

unsigned pmu_num_counters(const struct cpu *cpu) {
    unsigned hpmn = FIELD(cpu->st.mdcr_el2, MDCR_HPMN);
    return hpmn < NUM_EVENT_COUNTERS ? hpmn : NUM_EVENT_COUNTERS;
}

static unsigned event_of(const struct cpu *cpu, unsigned n) {
    return FIELD(cpu->st.pmevtyper[n], PMEVTYPER_EVENT);
}

static void add(struct cpu *cpu, unsigned n, uint64_t count) {
    uint64_t sum = (cpu->st.pmevcntr[n] & UINT32_MAX) + count;
    cpu->st.pmevcntr[n] = (uint32_t)sum;
    if (!(sum >> 32)) {
        return;
    }
    cpu->st.pmovsset |= 1u << n;
    pmu_update_output(cpu);
    unsigned odd = n + 1;
    if (odd % 2 && cpu->pmu.counters >> odd & 1 && event_of(cpu, odd) == PMU_CHAIN) {
        add(cpu, odd, 1);
    }
}

static void add_cycles(struct cpu *cpu, uint64_t count) {
    cpu->st.pmccntr += count;
    if (cpu->st.pmccntr < count) {
        cpu->st.pmovsset |= CYCLES;
        pmu_update_output(cpu);
    }
}

void pmu_count(struct cpu *cpu, enum pmu_event event, uint32_t counters, uint64_t count) {
    counters &= cpu->pmu.counters;
    if (counters & CYCLES && event == PMU_CPU_CYCLES) {
        add_cycles(cpu, count);
    }
    for (counters &= ~(uint32_t)CYCLES; counters; counters &= counters - 1) {
        unsigned n = (unsigned)__builtin_ctz(counters);
        if (event_of(cpu, n) == event) {
            add(cpu, n, count);
        }
    }
}

/* ---- the events of an instruction ---- */

static uint64_t memory_events(bool reads, bool writes) {
    return (reads ? EVENT(LD_RETIRED) : 0) | (writes ? EVENT(ST_RETIRED) : 0) |
           (reads || writes ? EVENT(MEM_ACCESS) : 0);
}

/* Loads and stores of one register, by size, V and opc; PRFM accesses nothing. */
static uint64_t single_events(uint32_t w) {
    unsigned size = bits(w, 30, 2), opc = bits(w, 22, 2);
    bool is_vector = bits(w, 26, 1), is_offset = bits(w, 24, 1) || !bits(w, 21, 1);
    if (!is_offset && bits(w, 10, 2) == 0) { /* atomics, and LDAPR, which only reads */
        return memory_events(true, (w & 0x3ffffc00) != 0x38bfc000);
    }
    if (!is_offset && bits(w, 10, 1)) { /* LDRAA, LDRAB */
        return memory_events(true, false);
    }
    if (size == 3 && opc == 2 && !is_vector) {
        return 0;
    }
    return memory_events(is_vector ? opc & 1 : opc != 0, is_vector ? !(opc & 1) : opc == 0);
}

/* Exclusives, ordered accesses, compare and swap. */
static uint64_t exclusive_events(uint32_t w) {
    bool is_ordered = bits(w, 23, 1), is_pair = bits(w, 21, 1);
    if (is_pair && (is_ordered || !bits(w, 31, 1))) { /* CAS, CASP */
        return memory_events(true, true);
    }
    return memory_events(bits(w, 22, 1), !bits(w, 22, 1));
}

static uint64_t load_store_events(uint32_t w) {
    switch (bits(w, 28, 2)) {
    case 0: return bits(w, 26, 1) ? memory_events(bits(w, 22, 1), !bits(w, 22, 1)) : exclusive_events(w);
    case 1:
        if (bits(w, 24, 1)) { /* LDAPUR, STLUR */
            return memory_events(bits(w, 22, 2), !bits(w, 22, 2));
        }
        return memory_events(bits(w, 30, 2) != 3 || bits(w, 26, 1), false); /* literal; not PRFM */
    case 2: return memory_events(bits(w, 22, 1), !bits(w, 22, 1)); /* pairs */
    default: return single_events(w);
    }
}

static uint64_t branch_events(uint32_t w) {
    if (bits(w, 26, 5) == 0x05 || bits(w, 26, 5) == 0x0d || bits(w, 24, 8) == 0x54) {
        return EVENT(BR_RETIRED) | EVENT(BR_IMMED_RETIRED); /* B, BL; CBZ, TBZ and the like; B.cond */
    }
    unsigned opc = bits(w, 21, 3); /* BR, BLR, RET, with and without authentication */
    if (bits(w, 25, 7) != 0x6b || opc > 2) {
        return 0;
    }
    return EVENT(BR_RETIRED) | (opc == 2 ? EVENT(BR_RETURN_RETIRED) : 0);
}

static uint64_t events_of(uint32_t w) {
    if (bits(w, 27, 1) && !bits(w, 25, 1)) {
        return load_store_events(w);
    }
    return bits(w, 26, 3) == 5 ? branch_events(w) : 0;
}

/* ---- what was executed ---- */

static void count_last(struct cpu *cpu) {
    uint64_t events = cpu->pmu.last;
    for (cpu->pmu.last = 0; events; events &= events - 1) {
        pmu_event(cpu, (enum pmu_event)__builtin_ctzll(events));
    }
}

void pmu_step(struct cpu *cpu, uint32_t word) {
    count_last(cpu);
    cpu->pmu.last = events_of(word) & cpu->pmu.events;
}

void pmu_sync(struct cpu *cpu, uint64_t executed) {
    uint64_t count = executed - cpu->pmu.counted;
    cpu->pmu.counted = executed;
    count_last(cpu);
    if (count && cpu->pmu.events & (EVENT(INST_RETIRED) | EVENT(CPU_CYCLES))) {
        pmu_count(cpu, PMU_INST_RETIRED, cpu->pmu.counters, count);
        pmu_count(cpu, PMU_CPU_CYCLES, cpu->pmu.counters, count);
    }
}

void pmu_exception(struct cpu *cpu, bool is_retired) {
    if (cpu->pmu.is_on) {
        pmu_sync(cpu, cpu->icount + is_retired);
        cpu->pmu.excepted = true;
    }
}

void pmu_exception_return(struct cpu *cpu) {
    if (cpu->pmu.is_on) {
        pmu_sync(cpu, cpu->icount + 1);
        pmu_event(cpu, PMU_EXC_RETURN);
    }
}

/* ---- control ---- */

static bool counts_here(const struct cpu *cpu, uint64_t filter) {
    return !(filter & (cpu->el ? PMEVTYPER_P : PMEVTYPER_U));
}

int64_t pmu_left(const struct cpu *cpu) {
    uint64_t left = INT64_MAX;
    for (uint32_t counters = cpu->pmu.counters & ~(uint32_t)CYCLES; counters; counters &= counters - 1) {
        unsigned n = (unsigned)__builtin_ctz(counters), event = event_of(cpu, n);
        uint64_t room = (1ull << 32) - (cpu->st.pmevcntr[n] & UINT32_MAX);
        left = (event == PMU_INST_RETIRED || event == PMU_CPU_CYCLES) && room < left ? room : left;
    }
    uint64_t room = -cpu->st.pmccntr; /* 0: 2^64 */
    return (int64_t)(cpu->pmu.counters & CYCLES && room && room < left ? room : left);
}

void pmu_update(struct cpu *cpu) {
    uint64_t mine = (1ull << pmu_num_counters(cpu)) - 1;
    uint64_t enabled = cpu->st.pmcr & PMCR_E ? cpu->st.pmcntenset & (CYCLES | mine) : 0;
    cpu->pmu.is_on = enabled != 0;
    cpu->pmu.counters = 0;
    cpu->pmu.events = 0;
    if (enabled & CYCLES && counts_here(cpu, cpu->st.pmccfiltr)) {
        cpu->pmu.counters = CYCLES;
        cpu->pmu.events = EVENT(CPU_CYCLES);
    }
    for (enabled &= mine; enabled; enabled &= enabled - 1) {
        unsigned n = (unsigned)__builtin_ctzll(enabled), event = event_of(cpu, n);
        if (event < 64 && PMU_EVENTS >> event & 1 && counts_here(cpu, cpu->st.pmevtyper[n])) {
            cpu->pmu.counters |= 1u << n;
            cpu->pmu.events |= 1ull << event;
        }
    }
    cpu->pmu.steps = cpu->pmu.events & STEP_EVENTS;
    if (cpu->pmu.counters) {
        atomic_store(&cpu->limit, POLL_NOW); /* an overflow may be near */
    }
}

/* ---- the interrupt ---- */

static bool output(const struct cpu *cpu) {
    return cpu->st.pmcr & PMCR_E && cpu->st.pmovsset & cpu->st.pmintenset & PMU_COUNTERS;
}

void pmu_update_output(struct cpu *cpu) {
    bool is_up = output(cpu);
    if (is_up && !cpu->pmu.output_seen) {
        cpu->leave_irq |= IRQ_PMU;
        cpu_request(cpu, REQ_LEAVE);
    }
    cpu->pmu.output_seen = is_up;
}

void pmu_enter(struct cpu *cpu) {
    cpu->pmu = (struct pmu){.output_seen = output(cpu)};
    pmu_update(cpu);
}

void pmu_leave(struct cpu *cpu) {
    pmu_resume(cpu);
    if (cpu->pmu.is_on) {
        pmu_sync(cpu, cpu->icount);
    }
    cpu->st.pmu_overflow = output(cpu);
}
