/*
 * The GIC virtual CPU interface: what EL1 sees of its interrupts through the list registers.
 *
 * Four list registers, five priority and preemption bits, no LPIs, affinity routing and system registers always on.
 * Spec: Arm IHI 0069, "Virtual interrupt handling", ICV_* and ICH_* registers.
 */
#include "gic_cpuif.h"

#include "pstate.h"

enum { NUM_LRS = 4, PRIORITY_BITS = 5, MIN_BPR0 = 7 - PRIORITY_BITS, IDLE_PRIORITY = 0xff, SPURIOUS = 1023 };
enum { FIRST_SPECIAL = 1020, FIRST_LPI = 8192 };

#define LR_EOI (1ull << 41)
#define LR_GROUP1 (1ull << 60)
#define LR_HW (1ull << 61)
#define LR_PENDING (1ull << 62)
#define LR_ACTIVE (1ull << 63)
#define LR_STATE (LR_PENDING | LR_ACTIVE)

#define HCR_FMO (1ull << 3)
#define HCR_IMO (1ull << 4)
#define HCR_AMO (1ull << 5)
#define HCR_VF (1ull << 6)
#define HCR_VI (1ull << 7)
#define HCR_VSE (1ull << 8)

enum { ICH_EN = 1 << 0, ICH_EOICOUNT = 27 };

/* Bits of ICH_MISR_EL2; those from U on have their enable in the same place of ICH_HCR_EL2. */
enum { MISR_EOI = 1 << 0, MISR_U = 1 << 1, MISR_LRENP = 1 << 2, MISR_NP = 1 << 3 };
enum { MISR_GRP0_E = 1 << 4, MISR_GRP0_D = 1 << 5, MISR_GRP1_E = 1 << 6, MISR_GRP1_D = 1 << 7 };

/* ---- list registers and priorities ---- */

static unsigned lr_priority(uint64_t lr) {
    return lr >> 48 & 0xf8;
}

static unsigned lr_group(uint64_t lr) {
    return lr & LR_GROUP1 ? 1 : 0;
}

static uint32_t lr_intid(uint64_t lr) {
    return (uint32_t)lr;
}

static unsigned vmcr(const struct cpu *cpu, unsigned lsb, unsigned width) {
    return cpu->st.ich_vmcr >> lsb & ones(width);
}

/*
 * What ICH_VMCR_EL2 holds after any value was written: binary points not below their minimum, five priority bits, VFIQEn
 * as one and VAckCtl as zero (there are only system registers).
 */
uint64_t gic_vmcr(uint64_t value) {
    const uint64_t kept = 1ull << VMCR_ENG0 | 1ull << VMCR_ENG1 | 1ull << VMCR_CBPR | 1ull << VMCR_EOIM |
                          7ull << VMCR_BPR1 | 7ull << VMCR_BPR0 | 0xf8ull << VMCR_PMR;
    value = (value & kept) | 1ull << VMCR_FIQEN;
    for (unsigned group = 0; group < 2; group++) {
        unsigned lsb = group ? VMCR_BPR1 : VMCR_BPR0, least = MIN_BPR0 + group;
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
    return vmcr(cpu, group ? VMCR_ENG1 : VMCR_ENG0, 1);
}

/* Bits of a priority that decide about preemption.  ICV_BPR1 counts from one place higher than ICV_BPR0. */
static unsigned group_priority(const struct cpu *cpu, unsigned group, unsigned priority) {
    unsigned bpr = group && !vmcr(cpu, VMCR_CBPR, 1) ? vmcr(cpu, VMCR_BPR1, 3) : vmcr(cpu, VMCR_BPR0, 3) + 1;
    return priority & ~ones(bpr);
}

static unsigned running_priority(const struct cpu *cpu) {
    uint32_t active = (uint32_t)(cpu->st.ich_ap0r0 | cpu->st.ich_ap1r0);
    return active ? (unsigned)__builtin_ctz(active) << (8 - PRIORITY_BITS) : IDLE_PRIORITY;
}

/* The pending list register of the highest priority among the enabled groups, or -1. */
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

/* The list register whose interrupt would be signalled now, or -1. */
static int deliverable(const struct cpu *cpu) {
    const uint64_t *lrs = cpu->st.ich_lr;
    _Static_assert(NUM_LRS == 4, "every list register is looked at");
    if (!((lrs[0] | lrs[1] | lrs[2] | lrs[3]) & LR_PENDING) || !(cpu->st.ich_hcr & ICH_EN)) {
        return -1;
    }
    int n = highest_pending(cpu);
    if (n < 0) {
        return -1;
    }
    uint64_t lr = lrs[n];
    unsigned priority = lr_priority(lr), running = running_priority(cpu);
    if (priority >= vmcr(cpu, VMCR_PMR, 8)) {
        return -1;
    }
    return running == IDLE_PRIORITY || group_priority(cpu, lr_group(lr), priority) < running ? n : -1;
}

/* ---- signals ---- */

unsigned irq_pending(const struct cpu *cpu) {
    uint64_t hcr = cpu->st.hcr_el2;
    int n = deliverable(cpu);
    bool irq = hcr & HCR_VI || (n >= 0 && cpu->st.ich_lr[n] & LR_GROUP1);
    bool fiq = hcr & HCR_VF || (n >= 0 && !(cpu->st.ich_lr[n] & LR_GROUP1));
    return (irq && hcr & HCR_IMO ? PENDING_IRQ : 0) | (fiq && hcr & HCR_FMO ? PENDING_FIQ : 0) |
           (hcr & HCR_VSE && hcr & HCR_AMO ? PENDING_SERROR : 0);
}

/* ICH_EISR_EL2, ICH_ELRSR_EL2 and ICH_MISR_EL2, as the list registers have it. */
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
    unsigned conditions = (used <= 1 ? MISR_U : 0) | (hcr >> ICH_EOICOUNT & 31 ? MISR_LRENP : 0) |
                          (pending ? 0 : MISR_NP) | (group0 ? MISR_GRP0_E : MISR_GRP0_D) |
                          (group1 ? MISR_GRP1_E : MISR_GRP1_D);
    cpu->st.ich_eisr = eisr;
    cpu->st.ich_elrsr = empty;
    cpu->st.ich_misr = (eisr ? MISR_EOI : 0) | (conditions & hcr);
    if (hcr & ICH_EN && cpu->st.ich_misr && cpu->maintenance_enabled) {
        cpu->leave_irq |= IRQ_MAINTENANCE;
        cpu_request(cpu, REQ_LEAVE);
    }
}

/* Runs at every change of PSTATE.DAIF, so an idle interface must cost next to nothing. */
void irq_mask_changed(struct cpu *cpu) {
    unsigned masked = (cpu->daif & PSTATE_I ? PENDING_IRQ : 0) | (cpu->daif & PSTATE_F ? PENDING_FIQ : 0) |
                      (cpu->daif & PSTATE_A ? PENDING_SERROR : 0) | cpu->debug.masked;
    if (masked != (PENDING_IRQ | PENDING_FIQ | PENDING_SERROR) && irq_pending(cpu) & ~masked) {
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

/* ICV_IAR0_EL1, ICV_IAR1_EL1: activate what is signalled, if it is of this group. */
uint64_t gic_read_IAR(struct cpu *cpu, unsigned group) {
    int n = deliverable(cpu);
    if (n < 0 || lr_group(cpu->st.ich_lr[n]) != group) {
        return SPURIOUS;
    }
    uint64_t *lr = &cpu->st.ich_lr[n];
    uint32_t intid = lr_intid(*lr);
    bool special = intid >= FIRST_SPECIAL && intid <= SPURIOUS;
    if (special) {
        *lr &= ~LR_STATE;
    } else {
        unsigned level = group_priority(cpu, group, lr_priority(*lr)) >> (8 - PRIORITY_BITS);
        *(group ? &cpu->st.ich_ap1r0 : &cpu->st.ich_ap0r0) |= 1ull << level;
        *lr = (*lr & ~LR_PENDING) | (intid < FIRST_LPI ? LR_ACTIVE : 0);
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

/* An active interrupt that has no list register was ended: EL2 must hear of it. */
static void count_eoi(struct cpu *cpu) {
    uint64_t count = (cpu->st.ich_hcr >> ICH_EOICOUNT & 31) + 1;
    cpu->st.ich_hcr = (cpu->st.ich_hcr & ~(31ull << ICH_EOICOUNT)) | (count & 31) << ICH_EOICOUNT;
}

/* Drop the running priority.  @return the priority and its group in *group; IDLE_PRIORITY if nothing was active */
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
    if (intid >= FIRST_SPECIAL && intid <= SPURIOUS) {
        return;
    }
    unsigned dropped = drop_priority(cpu, &dropped_group);
    if (dropped == IDLE_PRIORITY) {
        return;
    }
    int n = find_active(cpu, intid);
    bool deactivates = !vmcr(cpu, VMCR_EOIM, 1);
    if (n < 0) {
        if (deactivates && intid < FIRST_LPI) {
            count_eoi(cpu);
        }
    } else if (deactivates && dropped_group == group && lr_group(cpu->st.ich_lr[n]) == group &&
               group_priority(cpu, group, lr_priority(cpu->st.ich_lr[n])) == dropped) {
        cpu->st.ich_lr[n] &= ~LR_ACTIVE;
    }
    irq_update(cpu);
}

void gic_write_DIR(struct cpu *cpu, uint64_t value) {
    uint32_t intid = (uint32_t)value;
    if (!vmcr(cpu, VMCR_EOIM, 1) || intid >= FIRST_SPECIAL) {
        return;
    }
    int n = find_active(cpu, intid);
    if (n < 0) {
        count_eoi(cpu);
    } else {
        cpu->st.ich_lr[n] &= ~LR_ACTIVE;
    }
    irq_update(cpu);
}

/* ---- the other registers ---- */

uint64_t gic_read_HPPIR(struct cpu *cpu, unsigned group) {
    int n = highest_pending(cpu);
    if (n < 0 || lr_group(cpu->st.ich_lr[n]) != group) {
        return SPURIOUS;
    }
    return lr_intid(cpu->st.ich_lr[n]);
}

uint64_t gic_read_RPR(struct cpu *cpu) {
    return running_priority(cpu);
}

void gic_write_vmcr(struct cpu *cpu, unsigned lsb, unsigned width, uint64_t value) {
    cpu->st.ich_vmcr = gic_vmcr((cpu->st.ich_vmcr & ~(ones(width) << lsb)) | (value & ones(width)) << lsb);
    irq_update(cpu);
}

/* CTLR.CBPR: one binary point for both groups; the other register then shows it and ignores writes. */
uint64_t gic_read_BPR(struct cpu *cpu, unsigned group) {
    unsigned bpr0 = vmcr(cpu, VMCR_BPR0, 3);
    if (!group) {
        return bpr0;
    }
    return !vmcr(cpu, VMCR_CBPR, 1) ? vmcr(cpu, VMCR_BPR1, 3) : bpr0 < 7 ? bpr0 + 1 : 7;
}

void gic_write_BPR(struct cpu *cpu, unsigned group, uint64_t value) {
    if (!group || !vmcr(cpu, VMCR_CBPR, 1)) {
        gic_write_vmcr(cpu, group ? VMCR_BPR1 : VMCR_BPR0, 3, value);
    }
}

uint64_t gic_read_CTLR(struct cpu *cpu) {
    enum { A3V = 1 << 15, PRI_BITS_SHIFT = 8 }; /* INTIDs of 16 bits: IDbits is 0 */
    return A3V | (PRIORITY_BITS - 1) << PRI_BITS_SHIFT | vmcr(cpu, VMCR_EOIM, 1) << 1 | vmcr(cpu, VMCR_CBPR, 1);
}

void gic_write_CTLR(struct cpu *cpu, uint64_t value) {
    gic_write_vmcr(cpu, VMCR_CBPR, 1, value);
    gic_write_vmcr(cpu, VMCR_EOIM, 1, value >> 1);
}
