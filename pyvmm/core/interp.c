/*
 * The interpreter: label dispatch over decoded pages.
 *
 * One translation unit contains the loop and the handlers of the base instruction set, so that the compiler inlines
 * them into their labels without link-time optimisation; floating point and SIMD are calls (fp.c, simd.c).
 *
 * Counting costs nothing per instruction.  `i` advances by 16 bytes per instruction, and every jump from a to b adds a
 * - b to `skew`; so skew + (intptr_t)i grows by exactly 16 for each instruction executed, on every path.
 *
 * Requests of other threads, the timer and the budget are checked at backward branches, page changes that miss, and
 * system instructions: every loop contains one of them.
 */
#pragma GCC optimize("no-tree-slp-vectorize") /* flags are stored one by one: a wide store would stall their readers */

#include "interp.h"

#include <sched.h>

#include "code.h"
#include "debug.h"
#include "decode.h"
#include "emit.h"
#include "exception.h"
#include "host.h"
#include "inval_serve.h"
#include "jit.h"
#include "mem.h"
#include "mmu.h"
#include "pauth.h"
#include "pmu.h"
#include "pstate.h"
#include "raise.h"
#include "sysinsn.h"
#include "sysreg.h"
#include "timer.h"
#include "wait.h"

#include "gen/calls.h"
#include "gen/ops.h"

#include "a64_alu.c.inc"
#include "a64_branch.c.inc"
#include "a64_ldst.c.inc"
#include "a64_pauth.c.inc"
#include "a64_atomic.c.inc"
#include "a64_system.c.inc"

#include "gen/dispatch.h"

#define POLL_INTERVAL 32768 /* instructions between two checks of the timer: about 0.1 ms */
#define NEAR 2048

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static uint32_t insn_word(const struct cpu *cpu, uint64_t pc) {
    return code_word(cpu->ops, (pc & 0xfff) >> 2);
}

static int64_t limit(const struct cpu *cpu) {
    return atomic_load_explicit(&cpu->limit, memory_order_relaxed);
}

/* Where to check next.  An exact clock's stop is never between two checks: each of the NEAR instructions before it is
 * executed alone.  (It is late only after a run of more than NEAR instructions without any branch back.) */
static int64_t next_poll(struct cpu *cpu, int64_t executed) {
    if (likely(cpu->machine->clock != CLOCK_EXACT)) {
        return min64((int64_t)cpu->budget, executed + min64(POLL_INTERVAL, pmu_left(cpu)));
    }
    int64_t left = min64(timer_instructions_left(cpu), pmu_left(cpu));
    int64_t stop = executed + min64((int64_t)cpu->budget - executed, left);
    cpu->is_near = stop - executed <= NEAR;
    return cpu->is_near ? executed + 1 : stop - NEAR;
}

/* Set the next poll point; executed = instructions so far. */
static void set_limit(struct cpu *cpu, int64_t executed) {
    cpu->icount = (uint64_t)executed;
    atomic_store_explicit(&cpu->retired, cpu->icount_base + cpu->icount, memory_order_relaxed);
    cpu->poll_at = next_poll(cpu, executed) << 4;
    atomic_store(&cpu->limit, cpu->poll_at);
}

/* Between instructions, with cpu->pc = the next one and a current cpu->icount: serve requests, timer and budget.
 * @return STEP_JUMP to continue at cpu->pc, STEP_EXIT to leave. */
static enum step poll(struct cpu *cpu) {
    if ((int64_t)cpu->icount << 4 >= cpu->poll_at) {
        timer_poll(cpu);
    }
    if (unlikely(cpu->pmu.is_on)) {
        pmu_sync(cpu, cpu->icount);
    }
    uint32_t request = atomic_load_explicit(&cpu->request, memory_order_acquire);
    if (request & REQ_INVAL) {
        cpu_serve_invalidations(cpu);
    }
    if (request & (REQ_KICK | REQ_LEAVE)) {
        atomic_fetch_and(&cpu->request, ~(uint32_t)(REQ_KICK | REQ_LEAVE));
        cpu->exit->reason = CORE_EXIT_IRQ;
        cpu->exit->irq = (request & REQ_KICK ? IRQ_KICK : 0) | cpu->leave_irq;
        cpu->leave_irq = 0;
        return STEP_EXIT;
    }
    if (cpu->icount >= cpu->budget) {
        cpu->exit->reason = CORE_EXIT_BUDGET;
        return STEP_EXIT;
    }
    if (request & REQ_IRQ) {
        return exception_irq(cpu);
    }
    return STEP_JUMP;
}

/* Check for a breakpoint at the instruction `i` at cpu->pc, and raise it. */
static bool breaks(struct cpu *cpu, const struct insn *i) {
    unsigned slot = (unsigned)(i - cpu->ops);
    return cpu->debug.break_slots[slot / 64] >> slot % 64 & 1 && debug_break(cpu, cpu->pc);
}

/* May the instruction at cpu->pc follow the previous one?  In a guarded page it may be forbidden. */
static bool may_land(const struct cpu *cpu) {
    unsigned btype = is_guarded(cpu, cpu->pc) ? cpu_btype(cpu) : 0;
    return !btype || is_branch_target(cpu, insn_word(cpu, cpu->pc), btype);
}

/* Find the instruction at cpu->pc and its decoded page.  NULL: an exception was raised, by priority (DDI 0487,
 * "Prioritization of Synchronous exceptions"): PC alignment, Instruction Abort, breakpoint, Illegal Execution
 * state, Branch Target. */
static const struct insn *fetch(struct cpu *cpu) {
    cpu->page_va = cpu->pc & PAGE_MASK;
    if (unlikely(cpu->pc & 3)) {
        raise_pc_alignment(cpu);
        return NULL;
    }
    const struct fetch_entry *e = &cpu->fetch[(cpu->pc >> GRANULE_SHIFT) & (FETCH_SIZE - 1)];
    cpu->ops = e->tag == cpu->page_va ? e->ops : mmu_fetch(cpu, cpu->pc);
    if (unlikely(!cpu->ops)) {
        return NULL;
    }
    const struct insn *i = cpu->ops + ((cpu->pc & 0xfff) >> 2);
    if (unlikely(cpu->il || !may_land(cpu))) {
        if (!breaks(cpu, i)) {
            (cpu->il ? raise_illegal_state : raise_branch_target)(cpu);
        }
        return NULL;
    }
    return i;
}

/* Execute only the instruction `i`: in the step page; its branch target needs a full fetch. */
static const struct insn *enter_step(struct cpu *cpu, const struct insn *i) {
    static const struct fetch_entry nothing[FETCH_SIZE] = {[0 ... FETCH_SIZE - 1] = {.tag = FETCH_NONE}};
    unsigned slot = (unsigned)(i - cpu->ops);
    if (breaks(cpu, i)) {
        return NULL;
    }
    if (cpu->debug.stepping) {
        debug_step(cpu, code_word(cpu->ops, slot));
    }
    cpu->ops = decode_step(cpu, cpu->ops, slot);
    cpu->fetch = nothing;
    cpu->limit = cpu->poll_at = 0; /* ends a branch to itself */
    return cpu->ops + slot;
}

static struct jit_exit count_run(struct cpu *cpu, const struct insn *i, int64_t count);

void interp_run(struct cpu *cpu) { /* NOLINT(readability-function-size): the labels share its variables */
#define LABEL(op, call) &&do_##op,
    /* clang-format off: && is no operator here */
    static const void *const label[NUM_OPS] = {
        &&do_DECODE,    &&do_NEXT_PAGE, &&do_REFETCH,
        &&do_UNDEFINED, &&do_DEBUG,     &&do_STEPPED,
        &&do_HEAT,      &&do_JIT,       A64_OPS(LABEL, LABEL, LABEL, LABEL, LABEL, LABEL, LABEL)};
    /* clang-format on */
#undef LABEL
#define DISPATCH goto *label[i->op]
#define EXECUTED ((skew + (intptr_t)i) >> 4)

    const struct insn *i = NULL;
    intptr_t skew = 0;
    int64_t executed = 0;
    enum step step;
    struct jit_exit exit;
    set_limit(cpu, 0);

resume: /* at cpu->pc, with `executed` instructions done */
    cpu->sp_align = cpu->st.sctlr_el1 & (cpu->el ? SCTLR_SA : SCTLR_SA0) ? 15 : 0;
    if (unlikely(cpu->is_near)) {
        cpu_select(cpu); /* after the step page */
    }
    cpu->icount = (uint64_t)executed;
    pmu_resume(cpu);
    if (unlikely(cpu->debug.armed) && !debug_resume(cpu, (uint64_t)executed)) {
        step = exception_take(cpu, 0);
        goto go_on;
    }
    if (unlikely(atomic_load(&cpu->request) || executed << 4 >= limit(cpu))) {
        if (poll(cpu) == STEP_EXIT) {
            goto leave;
        }
        set_limit(cpu, executed);
        goto resume;
    }
    i = fetch(cpu);
    if (i && unlikely(cpu->debug.stepping | cpu->is_near)) {
        i = enter_step(cpu, i);
    }
    if (unlikely(!i)) {
        step = exception_take(cpu, 0);
        executed += step == STEP_JUMP; /* so that a fault at its own vector uses up the budget */
        goto go_on;
    }
    skew = (intptr_t)((uint64_t)executed << 4) - (intptr_t)i;
    if (unlikely(cpu->pmu.steps)) {
        exit = count_run(cpu, i, skew + (intptr_t)i);
        goto left;
    }
    DISPATCH;

#define PLAIN(op, call)                                                                                               \
    do_##op : call;                                                                                                   \
    i++;                                                                                                              \
    DISPATCH;
#define FAULTS(op, call)                                                                                              \
    do_##op : if (unlikely(!(call))) {                                                                                \
        goto fault;                                                                                                   \
    }                                                                                                                 \
    i++;                                                                                                              \
    DISPATCH;
#define FP_PLAIN(op, call)                                                                                            \
    do_##op : if (unlikely(cpu->fp_trap)) {                                                                           \
        goto fp_trap;                                                                                                 \
    }                                                                                                                 \
    call;                                                                                                             \
    i++;                                                                                                              \
    DISPATCH;
#define FP_FAULTS(op, call)                                                                                           \
    do_##op : if (unlikely(cpu->fp_trap)) {                                                                           \
        goto fp_trap;                                                                                                 \
    }                                                                                                                 \
    if (unlikely(!(call))) {                                                                                          \
        goto fault;                                                                                                   \
    }                                                                                                                 \
    i++;                                                                                                              \
    DISPATCH;
#define BRANCH(op, call)                                                                                              \
    do_##op : {                                                                                                       \
        const struct insn *next = call;                                                                               \
        skew += (intptr_t)(i + 1) - (intptr_t)next;                                                                   \
        bool back = next <= i;                                                                                        \
        i = next;                                                                                                     \
        if (back && unlikely(skew + (intptr_t)i >= limit(cpu))) {                                                     \
            goto check;                                                                                               \
        }                                                                                                             \
        DISPATCH;                                                                                                     \
    }
#define INDIRECT(op, call)                                                                                            \
    do_##op : {                                                                                                       \
        const struct insn *next = call;                                                                               \
        if (unlikely(!next)) {                                                                                        \
            goto fault;                                                                                               \
        }                                                                                                             \
        skew += (intptr_t)(i + 1) - (intptr_t)next;                                                                   \
        bool back = next <= i;                                                                                        \
        i = next;                                                                                                     \
        cpu->btype_at = skew + (intptr_t)i;                                                                           \
        if (back && unlikely(cpu->btype_at >= limit(cpu))) {                                                          \
            goto check;                                                                                               \
        }                                                                                                             \
        DISPATCH;                                                                                                     \
    }
#define SYS(op, call)                                                                                                 \
    do_##op : cpu->pc = insn_va(cpu, i);                                                                              \
    cpu->icount = (uint64_t)EXECUTED;                                                                                 \
    step = call;                                                                                                      \
    goto system;

    A64_OPS(PLAIN, FAULTS, BRANCH, INDIRECT, SYS, FP_PLAIN, FP_FAULTS)

do_DECODE: /* the first execution of this word since its page was (re)made */
    decode_slot(cpu, cpu->ops, (unsigned)(i - cpu->ops));
    DISPATCH;

do_NEXT_PAGE: /* slot 1024: not an instruction */
    skew += (intptr_t)i;
    i = branch_to(cpu, cpu->page_va + GRANULE_SIZE);
    skew -= (intptr_t)i;
    DISPATCH;

do_REFETCH: /* cpu->pc is not in the fetch TLB */
    executed = EXECUTED;
    cpu->pc = branch_address(cpu, cpu->pc);
    goto resume;

do_UNDEFINED:
    raise_undefined(cpu);
    goto fault;

do_DEBUG: /* a breakpoint is at this offset in its page */
    if (debug_break(cpu, insn_va(cpu, i))) {
        cpu->pc = insn_va(cpu, i);
        executed = EXECUTED;
        cpu->icount = (uint64_t)executed;
        step = exception_take(cpu, 0);
        goto go_on;
    }
    goto *label[decode_marked_slot(cpu, cpu->ops, (unsigned)(i - cpu->ops))];

do_HEAT: /* the head of a block, until it is hot */
    if (!jit_heat(cpu, i)) {
        goto *label[jit_op(cpu->ops, (unsigned)(i - cpu->ops))];
    }

do_JIT:
    exit = jit_run(cpu, i, skew + (intptr_t)i); /* fall through */
left:
    i = exit.insn;
    skew = cpu->jit_count - (intptr_t)i;
    switch (exit.status) {
    case JIT_GO: DISPATCH;
    case JIT_POLL: goto check;
    case JIT_EXECUTE: goto *label[jit_op(cpu->ops, (unsigned)(i - cpu->ops))];
    case JIT_FAULT: goto fault;
    case JIT_SYSTEM: step = cpu->jit_step; goto system;
    default: goto differs;
    }

do_STEPPED: /* the slot after the stepped instruction */
    goto check;

fp_trap:
    raise_exception(cpu, cpu->fp_trap, EC_FP_ACCESS, ISS_COND_ALWAYS);
fault: /* the instruction at i only raised an exception */
    cpu->pmu.last = 0;
    cpu->pc = insn_va(cpu, i);
    cpu->icount = (uint64_t)EXECUTED;
    step = STEP_FAULT;
system:
    executed = EXECUTED + 1;
    if (likely(step == STEP_NEXT)) {
        i++;
        if (unlikely(atomic_load_explicit(&cpu->request, memory_order_relaxed) || cpu->pmu.steps)) {
            goto check;
        }
        DISPATCH;
    }
    if (step == STEP_FAULT) {
        if (unlikely(cpu->debug.stepping) && cpu->pc == insn_va(cpu, i)) {
            debug_not_stepped(cpu);
        }
        step = exception_take(cpu, insn_word(cpu, cpu->pc));
        executed -= step == STEP_EXIT && cpu->exit->reason == CORE_EXIT_DEBUG; /* at a watchpoint: not executed */
    }
go_on:
    if (step == STEP_JUMP) {
        goto resume;
    }
    goto leave;

check: /* before the instruction at i */
    if (i->op == OP_REFETCH) {
        goto do_REFETCH;
    }
    cpu->pc = insn_va(cpu, i);
    executed = EXECUTED;
    goto resume;

differs:
    cpu->exit->reason = CORE_EXIT_DIFFERS;
    cpu->pc = cpu->exit->far;
    executed = EXECUTED;

leave:
    cpu->icount = (uint64_t)executed;
    cpu->exit->instructions = (uint64_t)executed;
}

/* ---- for translated code: each op as a function ---- */

#define FUNCTION(op, call)                                                                                            \
    static bool act_##op(struct cpu *cpu, const struct insn *i) {                                                     \
        return call, true;                                                                                            \
    }
#define FUNCTION_FAULTS(op, call)                                                                                     \
    static bool act_##op(struct cpu *cpu, const struct insn *i) {                                                     \
        return call;                                                                                                  \
    }
#define FUNCTION_BRANCH(op, call)                                                                                     \
    static const struct insn *branch_##op(struct cpu *cpu, const struct insn *i) {                                    \
        return call;                                                                                                  \
    }
#define FUNCTION_SYS(op, call)                                                                                        \
    static enum step system_##op(struct cpu *cpu, const struct insn *i) {                                             \
        return call;                                                                                                  \
    }
A64_OPS(FUNCTION, FUNCTION_FAULTS, FUNCTION_BRANCH, FUNCTION_BRANCH, FUNCTION_SYS, FUNCTION, FUNCTION_FAULTS)

#define INFO(op, call) [OP_##op] = {KIND_PLAIN, {.act = act_##op}},
#define INFO_FAULTS(op, call) [OP_##op] = {KIND_FAULTS, {.act = act_##op}},
#define INFO_BRANCH(op, call) [OP_##op] = {KIND_BRANCH, {.branch = branch_##op}},
#define INFO_INDIRECT(op, call) [OP_##op] = {KIND_INDIRECT, {.branch = branch_##op}},
#define INFO_SYS(op, call) [OP_##op] = {KIND_SYS, {.system = system_##op}},
#define INFO_FP(op, call) [OP_##op] = {KIND_PLAIN | KIND_FP, {.act = act_##op}},
#define INFO_FP_FAULTS(op, call) [OP_##op] = {KIND_FAULTS | KIND_FP, {.act = act_##op}},
const struct op_info op_infos[NUM_OPS] = {
    A64_OPS(INFO, INFO_FAULTS, INFO_BRANCH, INFO_INDIRECT, INFO_SYS, INFO_FP, INFO_FP_FAULTS)};

/* ---- while each instruction is counted (pmu.h) ---- */

static struct jit_exit counted(struct cpu *cpu, const struct insn *i, int64_t count, enum jit_status status) {
    cpu->jit_count = count;
    return (struct jit_exit){.insn = i, .status = status};
}

/* The op to execute at `i`.  A breakpoint that is hit, and what is no instruction, keep their own op. */
static uint16_t op_to_count(struct cpu *cpu, const struct insn *i) {
    if (i->op == OP_REFETCH) {
        return OP_REFETCH; /* it is in no page */
    }
    unsigned slot = (unsigned)(i - cpu->ops);
    if (i->op == OP_DECODE) {
        decode_slot(cpu, cpu->ops, slot);
    }
    if (i->op == OP_DEBUG && !debug_break(cpu, insn_va(cpu, i))) {
        return decode_marked_slot(cpu, cpu->ops, slot);
    }
    return jit_op(cpu->ops, slot);
}

/* Execute and count instructions, up to one for which interp_run() is needed. */
static struct jit_exit count_run(struct cpu *cpu, const struct insn *i, int64_t count) {
    for (;;) {
        uint16_t op = op_to_count(cpu, i);
        const struct op_info *info = &op_infos[op];
        if (op == OP_REFETCH) {
            return counted(cpu, i, count, JIT_POLL);
        }
        if (op == OP_NEXT_PAGE) {
            i = branch_to(cpu, cpu->page_va + GRANULE_SIZE);
            continue;
        }
        if (op <= OP_JIT || (info->kind & KIND_FP && cpu->fp_trap) || info->kind == KIND_SYS) {
            return counted(cpu, i, count, JIT_EXECUTE);
        }
        pmu_step(cpu, code_word(cpu->ops, (unsigned)(i - cpu->ops)));
        bool branches = info->kind == KIND_BRANCH || info->kind == KIND_INDIRECT;
        const struct insn *next = branches ? info->branch(cpu, i) : info->act(cpu, i) ? i + 1 : NULL;
        if (!next) {
            return counted(cpu, i, count, JIT_FAULT);
        }
        count += COUNT_ONE;
        if (info->kind == KIND_INDIRECT) {
            cpu->btype_at = count;
        }
        if (branches && next <= i && count >= limit(cpu)) {
            return counted(cpu, next, count, JIT_POLL);
        }
        i = next;
    }
}

#include "gen/emit.h"
