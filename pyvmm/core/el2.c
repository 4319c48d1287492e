/*
 * EL2 of a context that has it.
 *
 * Only one of two regimes runs at a time: that of EL1 and EL0, or that of EL2 (with E2H and TGE: and EL0).  The whole
 * core works on the registers of EL1 in `st`; so does EL2, whose registers are there while its regime is active, and
 * those of EL1 are in the places of EL2's.  Where the formats differ, `st` has what means the same at EL1.  The controls
 * of EL2 in `st` are those that apply to the level that runs: at EL2 there are none.  So neither the interpreter, nor
 * translated code, nor a table walk knows more than `single`; and a context without EL2 pays nothing.
 *
 * The interface of the GIC is the physical one at EL2, and at EL1 too if interrupts do not go to EL2.
 * Spec: DDI 0487, HCR_EL2, "The Virtualization Host Extensions", "Translation regimes".
 */
#include "el2.h"

#include <stddef.h>

#include "gic_cpuif.h"
#include "pauth.h"
#include "pstate.h"
#include "tlb.h"

/* ---- the registers that both regimes have ---- */

#define PAIR(name) {offsetof(struct pe_state, name##_el1), offsetof(struct pe_state, name##_el2)}
static const struct {
    uint16_t el1, el2;
} pairs[] = {PAIR(sctlr), PAIR(ttbr0), PAIR(ttbr1), PAIR(tcr), PAIR(mair), PAIR(amair), PAIR(afsr0),     PAIR(afsr1),
             PAIR(esr),   PAIR(far),   PAIR(vbar),  PAIR(elr), PAIR(spsr), PAIR(sp),    PAIR(contextidr)};
#undef PAIR

static void swap(uint64_t *a, uint64_t *b) {
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

static void swap_pairs(struct cpu *cpu) {
    for (unsigned n = 0; n < sizeof pairs / sizeof *pairs; n++) {
        swap((uint64_t *)((char *)&cpu->st + pairs[n].el1), (uint64_t *)((char *)&cpu->st + pairs[n].el2));
    }
}

/* ---- EL2 without E2H, in the formats of EL1 ---- */

static uint64_t sctlr_of_el2(uint64_t sctlr) {
    return sctlr | SCTLR_SPAN | SCTLR_nTWI | SCTLR_nTWE | SCTLR_UCI | SCTLR_UCT | SCTLR_DZE;
}

static uint64_t tcr_of_el2(uint64_t tcr) {
    const uint64_t same = TCR_T0SZ | TCR_IRGN0 | TCR_ORGN0 | TCR_SH0 | TCR_TG0;
    return (tcr & same) | AS_FIELD(FIELD(tcr, TCR2_PS), TCR_IPS) | AS_FIELD(FIELD(tcr, TCR2_TBI), TCR_TBI0) |
           AS_FIELD(FIELD(tcr, TCR2_HA), TCR_HA) | AS_FIELD(FIELD(tcr, TCR2_HD), TCR_HD) |
           AS_FIELD(FIELD(tcr, TCR2_TBID), TCR_TBID0) | TCR_EPD1;
}

/* ---- controls ---- */

static bool traps_fp(uint64_t cptr, bool e2h) {
    return e2h ? !(FIELD(cptr, CPTR_FPEN) & 1) : (cptr & CPTR_TFP) != 0;
}

static void apply_at_el2(struct cpu *cpu) {
    const struct el2 *el2 = &cpu->el2;
    cpu->st.hcr_el2 = HCR_RW | HCR_API | HCR_APK | (el2->e2h ? HCR_E2H : 0);
    cpu->st.mdcr_el2 = el2->mdcr & MDCR_HPMN;
    cpu->st.cptr_el2 = 0;
    cpu->st.cnthctl_el2 = CNTHCTL_EL1PCTEN | CNTHCTL_EL1PCEN;
    cpu->st.cpacr_el1 = el2->e2h ? el2->cptr : traps_fp(el2->cptr, false) ? 0 : CPACR_FPEN;
    cpu->st.cntkctl_el1 = el2->e2h ? el2->cnthctl : CNTKCTL_EL0PCTEN | CNTKCTL_EL0VCTEN;
}

/* With TGE, which only EL0 can have here, stage 2 is off. */
static void apply_at_el1(struct cpu *cpu) {
    const struct el2 *el2 = &cpu->el2;
    cpu->st.hcr_el2 = el2->tge ? el2->hcr & ~(HCR_VM | HCR_DC) : el2->hcr;
    cpu->st.mdcr_el2 = el2->mdcr;
    cpu->st.cptr_el2 = (traps_fp(el2->cptr, el2->e2h) ? CPTR_TFP : 0) | (el2->cptr & CPTR_TCPAC);
    cpu->st.cnthctl_el2 = !el2->e2h ? el2->cnthctl
                                    : AS_FIELD(FIELD(el2->cnthctl, CNTHCTL_EL1PCTEN_E2H), CNTHCTL_EL1PCTEN) |
                                          AS_FIELD(FIELD(el2->cnthctl, CNTHCTL_EL1PTEN_E2H), CNTHCTL_EL1PCEN);
}

static void apply(struct cpu *cpu) {
    (cpu->el2.active ? apply_at_el2 : apply_at_el1)(cpu);
}

/* ---- the regime ---- */

/* The registers only. */
static void activate(struct cpu *cpu) {
    struct el2 *el2 = &cpu->el2;
    swap_pairs(cpu);
    el2->active = true;
    el2->single = !el2->e2h;
    el2->cpacr = cpu->st.cpacr_el1;
    el2->cntkctl = cpu->st.cntkctl_el1;
    if (el2->single) {
        el2->sctlr = cpu->st.sctlr_el1;
        el2->tcr = cpu->st.tcr_el1;
        cpu->st.sctlr_el1 = sctlr_of_el2(el2->sctlr);
        cpu->st.tcr_el1 = tcr_of_el2(el2->tcr);
    }
}

static void deactivate(struct cpu *cpu) {
    struct el2 *el2 = &cpu->el2;
    if (el2->single) {
        cpu->st.sctlr_el1 = el2->sctlr;
        cpu->st.tcr_el1 = el2->tcr;
    }
    cpu->st.cpacr_el1 = el2->cpacr;
    cpu->st.cntkctl_el1 = el2->cntkctl;
    el2->active = el2->single = false;
    swap_pairs(cpu);
}

static void use_interface(struct cpu *cpu, bool is_physical) {
    struct el2 *el2 = &cpu->el2;
    if (!el2->is_physical) {
        gic_swap(cpu);
    }
    el2->is_physical = true;
    if (!is_physical) {
        el2->pending = (uint8_t)gic_signals(cpu);
        el2->is_physical = false;
        gic_swap(cpu);
    }
}

static bool is_physical_here(const struct cpu *cpu) {
    return cpu->el2.active || !(cpu->el2.hcr & (HCR_IMO | HCR_FMO));
}

static void note_hcr(struct el2 *el2, uint64_t hcr) {
    el2->hcr = hcr | HCR_RW;
    el2->e2h = hcr & HCR_E2H;
    el2->tge = hcr & HCR_TGE;
}

void el2_load(struct cpu *cpu) {
    struct el2 *el2 = &cpu->el2;
    struct pe_state *st = &cpu->st;
    if (likely(!st->has_el2)) {
        el2->active = el2->single = false;
        return;
    }
    *el2 = (struct el2){.mdcr = st->mdcr_el2, .cptr = st->cptr_el2, .cnthctl = st->cnthctl_el2};
    el2->maintenance = st->maintenance;
    note_hcr(el2, st->hcr_el2);
    st->icc_vmcr = gic_vmcr(st->icc_vmcr);
    unsigned el = FIELD(st->pstate, PSTATE_EL);
    if (el >= 2 || (el == 0 && el2->e2h && el2->tge)) {
        activate(cpu);
    }
    apply(cpu);
    use_interface(cpu, is_physical_here(cpu));
}

void el2_store(struct cpu *cpu) {
    struct el2 *el2 = &cpu->el2;
    struct pe_state *st = &cpu->st;
    if (likely(!st->has_el2)) {
        return;
    }
    if (el2->active) {
        deactivate(cpu);
    }
    st->hcr_el2 = el2->hcr;
    st->mdcr_el2 = el2->mdcr;
    st->cptr_el2 = el2->cptr;
    st->cnthctl_el2 = el2->cnthctl;
    st->maintenance = el2->maintenance;
    if (el2->is_physical) {
        gic_swap(cpu);
    }
}

static uint64_t *stack_pointer(struct cpu *cpu) {
    return cpu->el && cpu->spsel ? &cpu->st.sp_el1 : &cpu->st.sp_el0;
}

/* What depends on the registers of the regime. */
static void regime_changed(struct cpu *cpu) {
    apply(cpu);
    tlb_enter(cpu, cpu->el2.active ? REGIME_EL2 : REGIME_EL1);
    pauth_update(cpu);
    fp_access_update(cpu);
    cpu_select(cpu);
}

void el2_switch(struct cpu *cpu, bool active) {
    tlb_leave(cpu);
    *stack_pointer(cpu) = cpu->x[X_SP];
    (active ? activate : deactivate)(cpu);
    cpu->x[X_SP] = *stack_pointer(cpu);
    regime_changed(cpu);
    use_interface(cpu, is_physical_here(cpu));
}

/* ---- writes at EL2 ---- */

void el2_write_hcr(struct cpu *cpu, uint64_t value) {
    bool changes_format = !(value & HCR_E2H) == cpu->el2.e2h;
    if (!changes_format) {
        note_hcr(&cpu->el2, value);
        return;
    }
    tlb_leave(cpu);
    *stack_pointer(cpu) = cpu->x[X_SP];
    deactivate(cpu);
    note_hcr(&cpu->el2, value);
    activate(cpu);
    regime_changed(cpu);
}

void el2_write_sctlr(struct cpu *cpu, uint64_t value) {
    cpu->el2.sctlr = value;
    cpu->st.sctlr_el1 = sctlr_of_el2(value);
    tlb_flush_stage1(cpu);
    pauth_update(cpu);
}

void el2_write_tcr(struct cpu *cpu, uint64_t value) {
    cpu->el2.tcr = value;
    cpu->st.tcr_el1 = tcr_of_el2(value);
    tlb_flush_stage1(cpu);
    pauth_update(cpu);
}

void el2_controls_changed(struct cpu *cpu) {
    apply(cpu);
    fp_access_update(cpu);
}

bool el2_takes_interrupts(const struct cpu *cpu) {
    return cpu->el2.tge || cpu->el2.hcr & (HCR_IMO | HCR_FMO);
}
