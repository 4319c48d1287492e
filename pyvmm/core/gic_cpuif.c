/*
 * The GIC virtual CPU interface: EL1's view of its interrupts, through the list registers.
 *
 * Four list registers, five priority and preemption bits, no LPIs, affinity routing and system registers always on.
 * Spec: Arm IHI 0069, "Virtual interrupt handling", ICV_* and ICH_* registers.
 */
#include "gic_cpuif.h"

#include "pstate.h"

enum { MIN_BPR0 = 7 - PRIORITY_BITS, IDLE_PRIORITY = 0xff };

#define LR_STATE (LR_PENDING | LR_ACTIVE)

/* ---- list registers and priorities ---- */

static unsigned lr_priority(uint64_t lr) {
    return lr >> LR_PRIORITY_SHIFT & PRIORITY_MASK;
}

static unsigned lr_group(uint64_t lr) {
    return lr & LR_GROUP1 ? 1 : 0;
}

static uint32_t lr_intid(uint64_t lr) {
    return (uint32_t)lr;
}

/*
 * The value of ICH_VMCR_EL2 after a write of any value: binary points not below their minimum, five priority bits,
 * VFIQEn as one and VAckCtl as zero (only system registers are supported).
 */
uint64_t gic_vmcr(uint64_t value) {
    const uint64_t kept = VMCR_VENG0 | VMCR_VENG1 | VMCR_VCBPR | VMCR_VEOIM | VMCR_VBPR1 | VMCR_VBPR0 |
                          AS_FIELD(PRIORITY_MASK, VMCR_VPMR);
    value = (value & kept) | VMCR_VFIQEN;
    for (unsigned group = 0; group < 2; group++) {
        unsigned lsb = group ? VMCR_VBPR1_SHIFT : VMCR_VBPR0_SHIFT, least = MIN_BPR0 + group;
        if ((value >> lsb & 7) < least) {
            value = (value & ~(7ull << lsb)) | (uint64_t)least << lsb;
        }
    }
    return value;
}

void gic_reset(struct pe_state *state) {
    state->ich_vmcr = gic_vmcr(0);
    state->ich_elrsr = ones(NUM_LRS);
}

static bool group_enabled(const struct cpu *cpu, unsigned group) {
    return cpu->st.ich_vmcr & (group ? VMCR_VENG1 : VMCR_VENG0);
}

/* The bits of a priority that determine preemption.  ICV_BPR1 is offset by one bit from ICV_BPR0. */
static unsigned group_priority(const struct cpu *cpu, unsigned group, unsigned priority) {
    uint64_t vmcr = cpu->st.ich_vmcr;
    unsigned bpr = group && !(vmcr & VMCR_VCBPR) ? FIELD(vmcr, VMCR_VBPR1) : FIELD(vmcr, VMCR_VBPR0) + 1;
    return priority & ~ones(bpr);
}

static unsigned running_priority(const struct cpu *cpu) {
    uint32_t active = (uint32_t)(cpu->st.ich_ap0r0 | cpu->st.ich_ap1r0);
    return active ? (unsigned)__builtin_ctz(active) << (8 - PRIORITY_BITS) : IDLE_PRIORITY;
}

/* The pending list register with the highest priority in the enabled groups, or -1. */
static int highest_pending(const struct cpu *cpu) {
    int best = -1;
    unsigned best_priority = 0x100;
    for (int n = 0; n < NUM_LRS; n++) {
        uint64_t lr = cpu->st.ich_lr[n];
        if ((lr & LR_STATE) == LR_PENDING && group_enabled(cpu, lr_group(lr)) && lr_priority(lr) < best_priority) {
            best = n;
            best_priority = lr_priority(lr);
        }
    }
    return best;
}

/* The list register whose interrupt is signalled now, or -1. */
static int deliverable(const struct cpu *cpu) {
    const uint64_t *lrs = cpu->st.ich_lr;
    _Static_assert(NUM_LRS == 4, "every list register is looked at");
    if (!((lrs[0] | lrs[1] | lrs[2] | lrs[3]) & LR_PENDING) || !(cpu->st.ich_hcr & ICH_HCR_EN)) {
        return -1;
    }
    int n = highest_pending(cpu);
    if (n < 0) {
        return -1;
    }
    uint64_t lr = lrs[n];
    unsigned priority = lr_priority(lr), running = running_priority(cpu);
    if (priority >= FIELD(cpu->st.ich_vmcr, VMCR_VPMR)) {
        return -1;
    }
    return running == IDLE_PRIORITY || group_priority(cpu, lr_group(lr), priority) < running ? n : -1;
}

/* ---- signals ---- */

unsigned gic_signals(const struct cpu *cpu) {
    int n = deliverable(cpu);
    return n < 0 ? 0 : cpu->st.ich_lr[n] & LR_GROUP1 ? PENDING_IRQ : PENDING_FIQ;
}

/* Interrupts of the physical interface of a context with EL2, at the level that runs. */
static unsigned physical_pending(const struct cpu *cpu) {
    const struct el2 *el2 = &cpu->el2;
    if (!el2->is_physical) {
        return el2->pending * PENDING_EL2_IRQ;
    }
    unsigned signals = gic_signals(cpu);
    bool is_for_el1 = el2->active && !el2->tge && !(el2->hcr & (HCR_IMO | HCR_FMO));
    return signals && is_for_el1 ? PENDING_WAKE : signals;
}

unsigned irq_pending(const struct cpu *cpu) {
    uint64_t hcr = cpu->st.hcr_el2;
    if (unlikely(cpu->st.has_el2) && cpu->el2.is_physical) {
        return physical_pending(cpu);
    }
    int n = deliverable(cpu);
    bool irq = hcr & HCR_VI || (n >= 0 && cpu->st.ich_lr[n] & LR_GROUP1);
    bool fiq = hcr & HCR_VF || (n >= 0 && !(cpu->st.ich_lr[n] & LR_GROUP1));
    return (irq && hcr & HCR_IMO ? PENDING_IRQ : 0) | (fiq && hcr & HCR_FMO ? PENDING_FIQ : 0) |
           (hcr & HCR_VSE && hcr & HCR_AMO ? PENDING_SERROR : 0) |
           (unlikely(cpu->st.has_el2) ? physical_pending(cpu) : 0);
}

/* ---- two interfaces ---- */

static void swap(uint64_t *a, uint64_t *b) {
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

void gic_swap(struct cpu *cpu) {
    struct pe_state *st = &cpu->st;
    for (unsigned n = 0; n < NUM_LRS; n++) {
        swap(&st->ich_lr[n], &st->icc_lr[n]);
    }
    swap(&st->ich_hcr, &st->icc_hcr);
    swap(&st->ich_vmcr, &st->icc_vmcr);
    swap(&st->ich_misr, &st->icc_misr);
    swap(&st->ich_eisr, &st->icc_eisr);
    swap(&st->ich_elrsr, &st->icc_elrsr);
    swap(&st->ich_ap0r0, &st->icc_ap0r0);
    swap(&st->ich_ap1r0, &st->icc_ap1r0);
}

static void leave_for_maintenance(struct cpu *cpu) {
    cpu->leave_irq |= IRQ_MAINTENANCE;
    cpu_request(cpu, REQ_LEAVE);
}

/* ICH_EISR_EL2, ICH_ELRSR_EL2 and ICH_MISR_EL2, computed from the list registers. */
static void update_status(struct cpu *cpu) {
    uint64_t hcr = cpu->st.ich_hcr;
    unsigned eisr = 0, empty = 0, used = 0;
    bool pending = false;
    for (unsigned n = 0; n < NUM_LRS; n++) {
        uint64_t lr = cpu->st.ich_lr[n];
        bool invalid = !(lr & LR_STATE);
        bool wants_eoi = !(lr & LR_HW) && lr & LR_EOI;
        eisr |= (invalid && wants_eoi) << n;
        empty |= (invalid && !wants_eoi) << n;
        used += !invalid;
        pending |= (lr & LR_STATE) == LR_PENDING;
    }
    bool group0 = group_enabled(cpu, 0), group1 = group_enabled(cpu, 1);
    unsigned conditions = (used <= 1 ? MISR_U : 0) | (hcr >> ICH_HCR_EOICOUNT_SHIFT & 31 ? MISR_LRENP : 0) |
                          (pending ? 0 : MISR_NP) | (group0 ? MISR_VGRP0E : MISR_VGRP0D) |
                          (group1 ? MISR_VGRP1E : MISR_VGRP1D);
    cpu->st.ich_eisr = eisr;
    cpu->st.ich_elrsr = empty;
    cpu->st.ich_misr = (eisr ? MISR_EOI : 0) | (conditions & hcr);
    bool level = hcr & ICH_HCR_EN && cpu->st.ich_misr;
    if (unlikely(cpu->st.has_el2) && !cpu->el2.is_physical) {
        if (level && !cpu->el2.maintenance) {
            leave_for_maintenance(cpu);
        }
        cpu->el2.maintenance = level;
    } else if (level && cpu->maintenance_enabled) {
        leave_for_maintenance(cpu);
    }
}

void gic_virtual_changed(struct cpu *cpu) {
    gic_swap(cpu);
    cpu->el2.is_physical = false;
    update_status(cpu);
    cpu->el2.is_physical = true;
    gic_swap(cpu);
}

/* Called at every change of PSTATE.DAIF, so an idle interface must cost almost nothing. */
void irq_mask_changed(struct cpu *cpu) {
    unsigned masked = (cpu->daif & PSTATE_I ? PENDING_IRQ : 0) | (cpu->daif & PSTATE_F ? PENDING_FIQ : 0) |
                      (cpu->daif & PSTATE_A ? PENDING_SERROR : 0) | cpu->debug.masked;
    bool may_be = masked != (PENDING_IRQ | PENDING_FIQ | PENDING_SERROR) || unlikely(cpu->st.has_el2);
    if (may_be && irq_pending(cpu) & ~(masked | PENDING_WAKE)) {
        cpu_request(cpu, REQ_IRQ);
    } else if (atomic_load_explicit(&cpu->request, memory_order_relaxed) & REQ_IRQ) {
        atomic_fetch_and(&cpu->request, ~(uint32_t)REQ_IRQ);
    }
}

void irq_update(struct cpu *cpu) {
    update_status(cpu);
    irq_mask_changed(cpu);
}

/* ---- acknowledge and end ---- */

/* ICV_IAR0_EL1, ICV_IAR1_EL1: activate the signalled interrupt, if it belongs to this group. */
uint64_t gic_read_IAR(struct cpu *cpu, unsigned group) {
    int n = deliverable(cpu);
    if (n < 0 || lr_group(cpu->st.ich_lr[n]) != group) {
        return SPURIOUS_INTID;
    }
    uint64_t *lr = &cpu->st.ich_lr[n];
    uint32_t intid = lr_intid(*lr);
    bool special = intid >= FIRST_SPECIAL_INTID && intid <= SPURIOUS_INTID;
    if (special) {
        *lr &= ~LR_STATE;
    } else {
        unsigned level = group_priority(cpu, group, lr_priority(*lr)) >> (8 - PRIORITY_BITS);
        *(group ? &cpu->st.ich_ap1r0 : &cpu->st.ich_ap0r0) |= 1ull << level;
        *lr = (*lr & ~LR_PENDING) | (intid < FIRST_LPI_INTID ? LR_ACTIVE : 0);
    }
    irq_update(cpu);
    return intid;
}

static int find_active(const struct cpu *cpu, uint32_t intid) {
    for (int n = 0; n < NUM_LRS; n++) {
        if (cpu->st.ich_lr[n] & LR_ACTIVE && lr_intid(cpu->st.ich_lr[n]) == intid) {
            return n;
        }
    }
    return -1;
}

/* An active interrupt without a list register was ended: notify EL2. */
static void count_eoi(struct cpu *cpu) {
    uint64_t count = (cpu->st.ich_hcr >> ICH_HCR_EOICOUNT_SHIFT & 31) + 1;
    cpu->st.ich_hcr = (cpu->st.ich_hcr & ~(31ull << ICH_HCR_EOICOUNT_SHIFT)) | (count & 31) << ICH_HCR_EOICOUNT_SHIFT;
}

/* A list register of the virtual interface may stand for a physical interrupt, which ends with it. */
static void deactivate(struct cpu *cpu, uint64_t *lr) {
    *lr &= ~LR_ACTIVE;
    if (likely(!cpu->st.has_el2) || cpu->el2.is_physical || !(*lr & LR_HW)) {
        return;
    }
    uint32_t intid = *lr >> LR_PINTID_SHIFT & LR_PINTID_MASK;
    gic_swap(cpu);
    cpu->el2.is_physical = true;
    int n = find_active(cpu, intid);
    if (n < 0) {
        count_eoi(cpu);
        leave_for_maintenance(cpu);
    } else {
        cpu->st.ich_lr[n] &= ~LR_ACTIVE;
    }
    update_status(cpu);
    cpu->el2.pending = (uint8_t)gic_signals(cpu);
    cpu->el2.is_physical = false;
    gic_swap(cpu);
}

/* Drop the running priority.  @return the priority, and its group in *group; IDLE_PRIORITY if nothing was active */
static unsigned drop_priority(struct cpu *cpu, unsigned *group) {
    uint64_t ap0 = cpu->st.ich_ap0r0, ap1 = cpu->st.ich_ap1r0;
    unsigned priority = running_priority(cpu);
    if (priority == IDLE_PRIORITY) {
        return priority;
    }
    uint64_t level = 1ull << (priority >> (8 - PRIORITY_BITS));
    *group = ap0 & level ? 0 : 1;
    if (*group) {
        cpu->st.ich_ap1r0 = ap1 & ~level;
    } else {
        cpu->st.ich_ap0r0 = ap0 & ~level;
    }
    return priority;
}

void gic_write_EOIR(struct cpu *cpu, unsigned group, uint64_t value) {
    uint32_t intid = (uint32_t)value;
    unsigned dropped_group = group;
    if (intid >= FIRST_SPECIAL_INTID && intid <= SPURIOUS_INTID) {
        return;
    }
    unsigned dropped = drop_priority(cpu, &dropped_group);
    if (dropped == IDLE_PRIORITY) {
        return;
    }
    int n = find_active(cpu, intid);
    bool deactivates = !(cpu->st.ich_vmcr & VMCR_VEOIM);
    if (n < 0) {
        if (deactivates && intid < FIRST_LPI_INTID) {
            count_eoi(cpu);
        }
    } else if (deactivates && dropped_group == group && lr_group(cpu->st.ich_lr[n]) == group &&
               group_priority(cpu, group, lr_priority(cpu->st.ich_lr[n])) == dropped) {
        deactivate(cpu, &cpu->st.ich_lr[n]);
    }
    irq_update(cpu);
}

void gic_write_DIR(struct cpu *cpu, uint64_t value) {
    uint32_t intid = (uint32_t)value;
    if (!(cpu->st.ich_vmcr & VMCR_VEOIM) || intid >= FIRST_SPECIAL_INTID) {
        return;
    }
    int n = find_active(cpu, intid);
    if (n < 0) {
        count_eoi(cpu);
    } else {
        deactivate(cpu, &cpu->st.ich_lr[n]);
    }
    irq_update(cpu);
}

/* ---- the other registers ---- */

uint64_t gic_read_HPPIR(struct cpu *cpu, unsigned group) {
    int n = highest_pending(cpu);
    if (n < 0 || lr_group(cpu->st.ich_lr[n]) != group) {
        return SPURIOUS_INTID;
    }
    return lr_intid(cpu->st.ich_lr[n]);
}

uint64_t gic_read_RPR(struct cpu *cpu) {
    return running_priority(cpu);
}

void gic_write_vmcr(struct cpu *cpu, uint64_t field, uint64_t value) {
    cpu->st.ich_vmcr = gic_vmcr((cpu->st.ich_vmcr & ~field) | (value & field));
    irq_update(cpu);
}

/* CTLR.CBPR: one binary point for both groups; the other register then reads it and ignores writes. */
uint64_t gic_read_BPR(struct cpu *cpu, unsigned group) {
    uint64_t vmcr = cpu->st.ich_vmcr, bpr0 = FIELD(vmcr, VMCR_VBPR0);
    if (!group) {
        return bpr0;
    }
    return !(vmcr & VMCR_VCBPR) ? FIELD(vmcr, VMCR_VBPR1) : bpr0 < 7 ? bpr0 + 1 : 7;
}

void gic_write_BPR(struct cpu *cpu, unsigned group, uint64_t value) {
    if (!group) {
        gic_write_vmcr(cpu, VMCR_VBPR0, AS_FIELD(value, VMCR_VBPR0));
    } else if (!(cpu->st.ich_vmcr & VMCR_VCBPR)) {
        gic_write_vmcr(cpu, VMCR_VBPR1, AS_FIELD(value, VMCR_VBPR1));
    }
}

uint64_t gic_read_CTLR(struct cpu *cpu) {
    enum { A3V = 1 << 15, PRI_BITS_SHIFT = 8 }; /* INTIDs of 16 bits: IDbits is 0 */
    uint64_t vmcr = cpu->st.ich_vmcr;
    return A3V | (PRIORITY_BITS - 1) << PRI_BITS_SHIFT | FIELD(vmcr, VMCR_VEOIM) << 1 | FIELD(vmcr, VMCR_VCBPR);
}

void gic_write_CTLR(struct cpu *cpu, uint64_t value) {
    gic_write_vmcr(cpu, VMCR_VCBPR, AS_FIELD(value, VMCR_VCBPR));
    gic_write_vmcr(cpu, VMCR_VEOIM, AS_FIELD(value >> 1, VMCR_VEOIM));
}
