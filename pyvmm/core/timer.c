/*
 * The generic timer: the counter, and the virtual and physical timers of EL1.
 *
 * Real clock: the counter follows the host's monotonic clock.  Virtual clock: an instruction takes 4 ns, so the
 * counter of 16 ns ticks advances once every four of them; a sleeping PE adds its idle time to machine->virtual_time.
 * Exact clock: the same, but the PEs run in turns and share one count, and an output rises at its very instruction.
 * Spec: DDI 0487, "The Generic Timer in AArch64 state".
 */
#include "timer.h"

#include <string.h>
#include <time.h>

enum { NS_PER_TICK = 1000000000 / COUNTER_FREQUENCY };

/* For the virtual and the exact clock. */
static uint64_t executed(const struct machine *machine, const struct cpu *cpu) {
    return (machine->clock == CLOCK_EXACT ? machine->executed : cpu->icount_base) + cpu->icount;
}

uint64_t timer_counter(struct machine *machine, const struct cpu *cpu) {
    if (machine->clock != CLOCK_REAL) {
        return executed(machine, cpu) / INSTRUCTIONS_PER_TICK + atomic_load(&machine->virtual_time);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    return (ns - machine->epoch_ns) / NS_PER_TICK;
}

void machine_set_counter(struct machine *machine, uint64_t count) {
    uint64_t ticks = count - timer_counter(machine, machine->pe[0]);
    if (machine->clock != CLOCK_REAL) {
        atomic_fetch_add(&machine->virtual_time, ticks);
    } else {
        machine->epoch_ns -= ticks * NS_PER_TICK;
    }
}

uint64_t machine_counter_frequency(struct machine *machine) {
    (void)machine;
    return COUNTER_FREQUENCY;
}

uint64_t timer_count(const struct cpu *cpu, enum timer timer) {
    return timer_counter(cpu->machine, cpu) - (timer == TIMER_VIRTUAL ? cpu->st.cntvoff_el2 : 0);
}

static bool output(uint64_t control) {
    return (control & (CNT_CTL_ENABLE | CNT_CTL_IMASK | CNT_CTL_ISTATUS)) == (CNT_CTL_ENABLE | CNT_CTL_ISTATUS);
}

/* Update one timer's ISTATUS.  @return ticks until its output rises, UINT64_MAX if never, 0 if it rose unnoticed */
static uint64_t update(struct cpu *cpu, uint64_t *control, uint64_t compare, uint64_t count, bool *seen) {
    bool met = *control & CNT_CTL_ENABLE && count >= compare;
    *control = (*control & (CNT_CTL_ENABLE | CNT_CTL_IMASK)) | (met ? CNT_CTL_ISTATUS : 0);
    if (!output(*control)) {
        *seen = false;
        return (*control & (CNT_CTL_ENABLE | CNT_CTL_IMASK)) == CNT_CTL_ENABLE ? compare - count : UINT64_MAX;
    }
    if (*seen) {
        return UINT64_MAX;
    }
    cpu->leave_irq |= IRQ_TIMER;
    cpu_request(cpu, REQ_LEAVE);
    return 0;
}

uint64_t *timer_control(struct cpu *cpu, enum timer timer) {
    uint64_t *const controls[NUM_TIMERS] = {&cpu->st.cntv_ctl, &cpu->st.cntp_ctl, &cpu->st.cnthp_ctl,
                                            &cpu->st.cnthv_ctl};
    return controls[timer];
}

uint64_t *timer_compare(struct cpu *cpu, enum timer timer) {
    uint64_t *const compares[NUM_TIMERS] = {&cpu->st.cntv_cval, &cpu->st.cntp_cval, &cpu->st.cnthp_cval,
                                            &cpu->st.cnthv_cval};
    return compares[timer];
}

/* @return ticks as update() */
static uint64_t update_el2(struct cpu *cpu, uint64_t now) {
    uint64_t left = update(cpu, &cpu->st.cnthp_ctl, cpu->st.cnthp_cval, now, &cpu->timer_seen[TIMER_HYP_PHYSICAL]);
    uint64_t other = update(cpu, &cpu->st.cnthv_ctl, cpu->st.cnthv_cval, now, &cpu->timer_seen[TIMER_HYP_VIRTUAL]);
    return left < other ? left : other;
}

/* The alarm ends a run as a kick does.  @return ticks as update() */
static uint64_t update_alarm(struct cpu *cpu, uint64_t now) {
    if (now < cpu->alarm) {
        return cpu->alarm - now;
    }
    cpu->alarm = UINT64_MAX;
    cpu_request(cpu, REQ_KICK);
    return 0;
}

int64_t timer_poll(struct cpu *cpu) {
    bool has_el2 = cpu->st.has_el2;
    uint64_t controls = cpu->st.cntv_ctl | cpu->st.cntp_ctl;
    if (unlikely(has_el2)) {
        controls |= cpu->st.cnthp_ctl | cpu->st.cnthv_ctl;
    }
    if (!(controls & (CNT_CTL_ENABLE | CNT_CTL_ISTATUS)) && likely(cpu->alarm == UINT64_MAX)) {
        memset(cpu->timer_seen, 0, sizeof cpu->timer_seen);
        return INT64_MAX;
    }
    uint64_t now = timer_counter(cpu->machine, cpu);
    uint64_t left =
        update(cpu, &cpu->st.cntv_ctl, cpu->st.cntv_cval, now - cpu->st.cntvoff_el2, &cpu->timer_seen[TIMER_VIRTUAL]);
    uint64_t other = update(cpu, &cpu->st.cntp_ctl, cpu->st.cntp_cval, now, &cpu->timer_seen[TIMER_PHYSICAL]);
    left = left < other ? left : other;
    if (unlikely(has_el2)) {
        other = update_el2(cpu, now);
        left = left < other ? left : other;
    }
    if (unlikely(cpu->alarm != UINT64_MAX)) {
        other = update_alarm(cpu, now);
        left = left < other ? left : other;
    }
    uint64_t unit = cpu->machine->clock == CLOCK_REAL ? NS_PER_TICK : 1;
    return left > INT64_MAX / unit ? INT64_MAX : (int64_t)(left * unit);
}

int64_t timer_instructions_left(struct cpu *cpu) {
    int64_t left = timer_poll(cpu), most = INT64_MAX / INSTRUCTIONS_PER_TICK;
    int64_t begun = (int64_t)(executed(cpu->machine, cpu) % INSTRUCTIONS_PER_TICK);
    return left <= 0 ? 0 : (left < most ? left : most) * INSTRUCTIONS_PER_TICK - begun;
}

void timer_enter(struct cpu *cpu) {
    cpu->timer_seen[TIMER_VIRTUAL] = output(cpu->st.cntv_ctl);
    cpu->timer_seen[TIMER_PHYSICAL] = output(cpu->st.cntp_ctl);
    cpu->timer_seen[TIMER_HYP_PHYSICAL] = output(cpu->st.cnthp_ctl);
    cpu->timer_seen[TIMER_HYP_VIRTUAL] = output(cpu->st.cnthv_ctl);
    timer_poll(cpu);
}
