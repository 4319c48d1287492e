/*
 * A timer of EL2 whose deadline comes while the realm runs: the run ends if the host would take the interrupt, and goes
 * on if something masks it.  The host acknowledges by polling: its own PSTATE.I stays set.
 */
#ifndef TIMERS_H
#define TIMERS_H

#include "el2.h"

enum { PPI_HYP_PHYSICAL = 26, PPI_HYP_VIRTUAL = 28, SPURIOUS = 1023 };
enum { GICR_SGI = GICR + 0x10000, GICR_ISENABLER = GICR_SGI + 0x100, GICR_ICENABLER = GICR_SGI + 0x180 };
enum { DELAY = 62500, LONG = 62500000 * 20ll, SHORT = 625000 }; // ticks: 1 ms, 20 s, 10 ms
enum { FREE = 0xff, MASKED = 0 };

static const struct {
    const char *what;
    bool is_virtual, is_disabled, is_off;
    uint8_t priority_mask;
} waits[] = {
    {"physical timer", .priority_mask = FREE},
    {"virtual timer", .is_virtual = true, .priority_mask = FREE},
    {"masked by ICC_PMR", .priority_mask = MASKED},
    {"disabled in the redistributor", .is_disabled = true, .priority_mask = FREE},
    {"group disabled in the interface", .is_off = true, .priority_mask = FREE},
};

// Shared with the realm: whether its wait has ended, and how long it may take.
static volatile uint64_t *shared_wait;

static void enable_interrupts(void) {
    *(volatile uint32_t *)GICD = 0x12; // affinity routing, group 1
    WRITE(S3_4_C12_C9_5, 0xf);         // ICC_SRE_EL2
}

// Wait number n: first the timers off, as after the last wait, then one of them on.
static void begin_wait(unsigned n, volatile uint64_t *shared) {
    WRITE(cnthp_ctl_el2, 0);
    WRITE(S3_4_C14_C3_1, 0); // CNTHV_CTL_EL2
    shared_wait = shared;
    shared[0] = 0;
    shared[1] = SHORT;
    if (n >= sizeof waits / sizeof *waits) {
        return; // no timer: no interrupt
    }
    print("host: ");
    print(waits[n].what);
    put('\n');
    bool is_free = waits[n].priority_mask && !waits[n].is_disabled && !waits[n].is_off;
    shared[1] = is_free ? LONG : SHORT;
    write32(waits[n].is_disabled ? GICR_ICENABLER : GICR_ISENABLER, 1u << PPI_HYP_PHYSICAL | 1u << PPI_HYP_VIRTUAL);
    WRITE(S3_0_C4_C6_0, waits[n].priority_mask); // ICC_PMR_EL1
    WRITE(S3_0_C12_C12_7, !waits[n].is_off);     // ICC_IGRPEN1_EL1
    if (waits[n].is_virtual) {
        WRITE(S3_4_C14_C3_2, READ(cntpct_el0) + DELAY); // CNTHV_CVAL_EL2
        WRITE(S3_4_C14_C3_1, 1);
    } else {
        WRITE(cnthp_cval_el2, READ(cntpct_el0) + DELAY);
        WRITE(cnthp_ctl_el2, 1);
    }
}

// After an exit of the realm because of an interrupt.
void take_interrupt(void) {
    uint64_t intid = READ(S3_0_C12_C12_0); // ICC_IAR1_EL1
    if (intid == SPURIOUS) {
        print("host: an exit without an interrupt\n");
        return;
    }
    show("host: interrupt", intid);
    WRITE(cnthp_ctl_el2, 0);
    WRITE(S3_4_C14_C3_1, 0);
    WRITE(S3_0_C12_C12_1, intid); // ICC_EOIR1_EL1
    shared_wait[0] = 1;
}

#endif
