/*
 * Debugging: stops before an instruction, at an access, or after one instruction.
 *
 * There are two users.  The guest has its breakpoint, watchpoint and software step registers, and gets an exception.
 * An external debugger has struct pe_debug: pe_run() returns CORE_EXIT_DEBUG with the syndrome of the corresponding
 * exception; the guest cannot notice it, not in its memory either.
 *
 * Without debugging, this costs only a test at the entry to guest code (`armed`), at the decoding of a word
 * (`break_slots`) and at the creation of a TLB entry (`num_watched`):
 * - A breakpoint marks its slot in every page; instructions decoded there become OP_DEBUG, which compares the whole
 *   address.
 * - A watchpoint keeps its pages out of the first-level TLBs, so that this file checks accesses to them (mem.c).
 * - A step executes its instruction in a page in which all other slots are OP_STEPPED.
 *
 * Spec: DDI 0487, "AArch64 Self-hosted Debug": AArch64.CheckBreakpoint, AArch64.CheckWatchpoint, software step.
 * Not implemented: breakpoints on VMIDs, watchpoints on cache maintenance.
 */
#include "debug.h"

#include <string.h>

#include "code.h"
#include "gic_cpuif.h"
#include "pstate.h"
#include "raise.h"
#include "tlb.h"

enum { NUM_REGISTERS = 16, LOAD = 1, STORE = 2 };

#define VA_BITS 49 /* in the guest's registers, with the sign */

/* ---- whether a debug exception is enabled, and its target ---- */

static unsigned guest_target(const struct cpu *cpu) {
    return cpu->st.mdcr_el2 & MDCR_TDE ? 2 : 1;
}

/* AArch64.GenerateDebugExceptionsFrom */
static bool generates_from(const struct cpu *cpu, unsigned el, uint64_t pstate) {
    bool same = guest_target(cpu) == el;
    return !(cpu->st.oslsr_el1 & OSLSR_OSLK) && (!same || (cpu->st.mdscr_el1 & MDSCR_KDE && !(pstate & PSTATE_D)));
}

static bool guest_is_debugging(const struct cpu *cpu) {
    return cpu->st.mdscr_el1 & MDSCR_MDE && generates_from(cpu, cpu->el, cpu->daif);
}

static void raise_to_guest(struct cpu *cpu, unsigned ec, uint64_t iss) {
    unsigned target = guest_target(cpu);
    raise_exception(cpu, target, ec + (cpu->el == target), iss);
}

static void raise_to_debugger(struct cpu *cpu, unsigned ec, uint64_t iss) {
    raise_exception(cpu, TARGET_DEBUGGER, ec, iss);
}

/* SSC and PMC or PAC of a control register, at the same
 * position in both kinds (AArch64.StateMatch), for EL0 and EL1. */
static bool state_matches(const struct cpu *cpu, uint64_t control, unsigned el) {
    unsigned ssc = FIELD(control, DBGBCR_SSC), levels = FIELD(control, DBGBCR_PMC);
    bool world = ssc == 0 || ssc == 3 || (ssc == 1) == (cpu->st.security == PAS_NS);
    return world && levels >> (el ? 0 : 1) & 1;
}

static bool context_matches(const struct cpu *cpu, unsigned n) {
    return (uint32_t)cpu->st.dbgbvr[n] == (uint32_t)cpu->st.contextidr_el1;
}

static unsigned breakpoint_type(const struct cpu *cpu, unsigned n) {
    return FIELD(cpu->st.dbgbcr[n], DBGBCR_BT);
}

/* The context breakpoint that a control register links to. */
static bool link_matches(const struct cpu *cpu, uint64_t control) {
    unsigned n = FIELD(control, DBGBCR_LBN); /* as DBGWCR_LBN */
    return cpu->st.dbgbcr[n] & DBGBCR_E && breakpoint_type(cpu, n) == BT_LINKED_CONTEXT && context_matches(cpu, n);
}

/* ---- breakpoints ---- */

/* AArch64.BreakpointMatch */
static bool breakpoint_matches(const struct cpu *cpu, unsigned n, uint64_t va) {
    uint64_t control = cpu->st.dbgbcr[n];
    if (!(control & DBGBCR_E) || !state_matches(cpu, control, cpu->el)) {
        return false;
    }
    bool address = !((cpu->st.dbgbvr[n] ^ va) & ones(VA_BITS) & ~3ull);
    switch (breakpoint_type(cpu, n)) {
    case BT_ADDRESS: return address;
    case BT_LINKED_ADDRESS: return address && link_matches(cpu, control);
    case BT_CONTEXT: return context_matches(cpu, n);
    default: return false;
    }
}

static bool outside_breaks(const struct pe_debug *outside, uint64_t va) {
    for (unsigned n = 0; outside && !outside->step && n < outside->num_breakpoints; n++) {
        if (outside->breakpoints[n] == va) {
            return true;
        }
    }
    return false;
}

bool debug_break(struct cpu *cpu, uint64_t va) {
    if (outside_breaks(cpu->debug.outside, va)) {
        raise_to_debugger(cpu, EC_BREAKPOINT_LOWER, FSC_DEBUG);
        return true;
    }
    for (unsigned n = 0; guest_is_debugging(cpu) && n < NUM_REGISTERS; n++) {
        if (breakpoint_matches(cpu, n, va)) {
            raise_to_guest(cpu, EC_BREAKPOINT_LOWER, FSC_DEBUG);
            return true;
        }
    }
    return false;
}

static void mark(uint64_t slots[SLOT_WORDS], uint64_t va) {
    unsigned slot = (va & ~PAGE_MASK) / 4;
    slots[slot / 64] |= 1ull << slot % 64;
}

static void update_breakpoints(struct cpu *cpu) {
    const struct pe_debug *outside = cpu->debug.outside;
    uint64_t slots[SLOT_WORDS] = {0}, changed[SLOT_WORDS], any = 0;
    for (unsigned n = 0; outside && n < outside->num_breakpoints; n++) {
        mark(slots, outside->breakpoints[n]);
    }
    for (unsigned n = 0; cpu->st.mdscr_el1 & MDSCR_MDE && n < NUM_REGISTERS; n++) {
        if (cpu->st.dbgbcr[n] & DBGBCR_E) {
            mark(slots, cpu->st.dbgbvr[n]);
            if (breakpoint_type(cpu, n) == BT_CONTEXT) {
                memset(slots, 0xff, sizeof slots);
            }
        }
    }
    for (unsigned k = 0; k < SLOT_WORDS; k++) {
        changed[k] = slots[k] ^ cpu->debug.break_slots[k];
        any |= changed[k];
    }
    memcpy(cpu->debug.break_slots, slots, sizeof slots);
    if (any) {
        code_forget_slots(cpu, changed);
    }
}

/* ---- watchpoints ---- */

/* The part of [va, va + size) in [start, start + length), all within the bits of a VA.  @return its offset, or -1 */
static int64_t overlap(uint64_t va, unsigned size, uint64_t start, uint64_t length) {
    uint64_t behind = (va - start) & ones(VA_BITS), ahead = (start - va) & ones(VA_BITS);
    if (behind < length) {
        return 0;
    }
    return length && ahead < size ? (int64_t)ahead : -1;
}

/* AArch64.WatchpointMatch.  @return the offset of the first byte that matches, or -1 */
static int64_t watchpoint_matches(const struct cpu *cpu, unsigned n, uint64_t va, unsigned size, unsigned access,
                                  unsigned el) {
    uint64_t control = cpu->st.dbgwcr[n], value = cpu->st.dbgwvr[n];
    unsigned log2_size = FIELD(control, DBGWCR_MASK), bytes = FIELD(control, DBGWCR_BAS);
    if (!(control & DBGWCR_E) || !(FIELD(control, DBGWCR_LSC) & access) || !state_matches(cpu, control, el) ||
        (control & DBGWCR_WT && !link_matches(cpu, control))) {
        return -1;
    }
    if (log2_size) {
        return overlap(va, size, value & ~ones(log2_size), 1ull << log2_size);
    }
    uint64_t base = value & ~(value & 4 ? 3ull : 7ull);
    for (unsigned k = 0; k < size; k++) {
        uint64_t byte = (va + k - base) & ones(VA_BITS);
        if (byte < 8 - (base & 4) && bytes >> byte & 1) {
            return k;
        }
    }
    return -1;
}

static int64_t outside_watches(const struct pe_debug *outside, uint64_t va, unsigned size, unsigned access,
                               unsigned *wanted) {
    for (unsigned n = 0; outside && n < outside->num_watchpoints; n++) {
        const struct pe_watchpoint *w = &outside->watchpoints[n];
        int64_t at = w->access & access ? overlap(va, size, w->addr, w->size) : -1;
        if (at >= 0) {
            *wanted = w->access;
            return at;
        }
    }
    return -1;
}

/* For an instruction that loads and stores, WnR is set if the watchpoint did not match the load. */
static uint64_t watchpoint_iss(unsigned access, unsigned wanted) {
    return FSC_DEBUG | (access & wanted & LOAD ? 0 : ESR_ABORT_WnR);
}

bool debug_watch(struct cpu *cpu, uint64_t va, unsigned size, bool read, bool write, enum mmu_index index) {
    unsigned access = (read ? LOAD : 0) | (write ? STORE : 0), wanted = 0;
    int64_t at = outside_watches(cpu->debug.outside, va, size, access, &wanted);
    if (at >= 0) {
        raise_to_debugger(cpu, EC_WATCHPOINT_LOWER, watchpoint_iss(access, wanted));
    }
    for (unsigned n = 0; at < 0 && guest_is_debugging(cpu) && n < NUM_REGISTERS; n++) {
        at = watchpoint_matches(cpu, n, va, size, access, index == MMU_EL0 ? 0 : 1);
        if (at >= 0) {
            raise_to_guest(cpu, EC_WATCHPOINT_LOWER, watchpoint_iss(access, FIELD(cpu->st.dbgwcr[n], DBGWCR_LSC)));
        }
    }
    if (at < 0) {
        return false;
    }
    cpu->exc.far = va + (uint64_t)at;
    return true;
}

bool debug_watches_page(const struct cpu *cpu, uint64_t va) {
    uint64_t page = va & ones(VA_BITS) & PAGE_MASK;
    for (unsigned n = 0; n < cpu->debug.num_watched; n++) {
        if (page >= cpu->debug.watched[n].start && page < cpu->debug.watched[n].end) {
            return true;
        }
    }
    return false;
}

/* Only for whole pages, so a range that wraps at the end of the VA space may be cut there. */
static void add_watched(struct watched *watched, uint32_t *num, uint64_t start, uint64_t size) {
    start &= ones(VA_BITS);
    uint64_t room = (1ull << VA_BITS) - start;
    if (size) {
        uint64_t end = start + (size < room ? size : room);
        watched[(*num)++] = (struct watched){start & PAGE_MASK, (end + GRANULE_SIZE - 1) & PAGE_MASK};
    }
}

static void update_watchpoints(struct cpu *cpu) {
    const struct pe_debug *outside = cpu->debug.outside;
    struct watched watched[MAX_WATCHED];
    uint32_t num = 0;
    for (unsigned n = 0; outside && n < outside->num_watchpoints; n++) {
        add_watched(watched, &num, outside->watchpoints[n].addr, outside->watchpoints[n].size);
    }
    for (unsigned n = 0; cpu->st.mdscr_el1 & MDSCR_MDE && n < NUM_REGISTERS; n++) {
        unsigned log2_size = FIELD(cpu->st.dbgwcr[n], DBGWCR_MASK);
        log2_size = log2_size < 3 ? 3 : log2_size;
        if (cpu->st.dbgwcr[n] & DBGWCR_E) {
            add_watched(watched, &num, cpu->st.dbgwvr[n] & ~ones(log2_size), 1ull << log2_size);
        }
    }
    if (num != cpu->debug.num_watched || memcmp(watched, cpu->debug.watched, num * sizeof *watched) != 0) {
        memcpy(cpu->debug.watched, watched, num * sizeof *watched);
        cpu->debug.num_watched = num;
        tlb_flush_data(cpu);
    }
}

/* ---- steps ---- */

bool debug_may_step(const struct cpu *cpu, uint64_t spsr) {
    return cpu->st.mdscr_el1 & MDSCR_SS && !generates_from(cpu, cpu->el, cpu->daif) &&
           generates_from(cpu, FIELD(spsr, PSTATE_EL) & 1, spsr);
}

static bool is_load_exclusive(uint32_t insn) {
    return (insn & 0x3fe00000) == 0x08400000 || (insn & 0x3fe00000) == 0x08600000; /* LDXR, LDAXR; LDXP, LDAXP */
}

void debug_step(struct cpu *cpu, uint32_t insn) {
    cpu->debug.ss = cpu->ss;
    cpu->debug.step_iss = ESR_STEP_ISV | (is_load_exclusive(insn) ? ESR_STEP_EX : 0);
    cpu->ss = 0;
}

void debug_not_stepped(struct cpu *cpu) {
    cpu->ss = cpu->debug.ss;
}

static bool outside_steps(const struct cpu *cpu) {
    return cpu->debug.outside && cpu->debug.outside->step;
}

bool debug_resume(struct cpu *cpu, uint64_t executed) {
    if (cpu->debug.stepping) {
        cpu->debug.stepping = false;
        cpu_select(cpu);
    }
    cpu->debug.armed = outside_steps(cpu) || cpu->st.mdscr_el1 & MDSCR_SS;
    if (outside_steps(cpu)) {
        if (executed) {
            raise_to_debugger(cpu, EC_SOFTWARE_STEP_LOWER, FSC_DEBUG);
            return false;
        }
        cpu->debug.stepping = true;
    }
    if (cpu->st.mdscr_el1 & MDSCR_SS && generates_from(cpu, cpu->el, cpu->daif)) {
        if (!cpu->ss) {
            raise_to_guest(cpu, EC_SOFTWARE_STEP_LOWER, FSC_DEBUG | cpu->debug.step_iss);
            return false;
        }
        cpu->debug.stepping = true;
    }
    return true;
}

/* ---- changes ---- */

void debug_update(struct cpu *cpu) {
    cpu->debug.outside = cpu->st.debug;
    cpu->debug.in_use = cpu->st.debug || cpu->st.mdscr_el1 & (MDSCR_SS | MDSCR_MDE);
    cpu->debug.armed = outside_steps(cpu) || cpu->debug.stepping || cpu->st.mdscr_el1 & MDSCR_SS;
    cpu->debug.masked = outside_steps(cpu) ? PENDING_IRQ | PENDING_FIQ | PENDING_SERROR : 0;
    update_breakpoints(cpu);
    update_watchpoints(cpu);
}
