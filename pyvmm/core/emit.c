/*
 * From a hot instruction to the code of its region.
 *
 * A region grows from its head along executed code: a slot that is not decoded was never executed, so unreached code
 * is not translated.  It stops at system instructions, at branches that leave the page, and at the heads of other
 * regions.
 */
#include "emit.h"

#include <string.h>

#include "decode.h"
#include "regions.h"

#include "gen/ops.h"

/* ---- which instructions ---- */

static const struct insn *insn_at(const struct emit *e, unsigned slot) {
    return &e->page->ops[slot];
}

static unsigned op_at(const struct emit *e, unsigned slot) {
    return page_op(e->page, slot);
}

static bool is_conditional(unsigned op) {
    return (op >= OP_BCOND_0 && op <= OP_TBZ_1) || (op >= OP_BCOND_far_0 && op <= OP_TBZ_far_1);
}

static bool has_region(const struct emit *e, unsigned slot) {
    return e->page->jit->entry[slot] != e->jit->stubs.leave[JIT_GO];
}

/* Add an instruction and its fall-through successors to the region; branch targets are left for later. */
static void gather_from(struct emit *e, unsigned slot) {
    for (bool follows = false;; slot++) {
        if (slot == SLOTS || in_set(e->members, slot) || (slot != e->head && has_region(e, slot))) {
            return;
        }
        if (e->num_members == MAX_REGION) {
            regions_add_head(e->page, slot);
            return;
        }
        if (follows && e->page->ops[slot].op == OP_DECODE) {
            decode_slot(e->cpu, e->page->ops, slot);
        }
        unsigned op = op_at(e, slot), kind = op_infos[op].kind & ~KIND_FP, target;
        if (kind == KIND_NONE || (kind == KIND_SYS && !emitters[op])) {
            return;
        }
        add_to_set(e->members, slot);
        e->num_members++;
        if (branch_target(op, insn_at(e, slot), slot, &target)) {
            add_to_set(e->targets, target);
            e->pending[e->num_pending++] = (uint16_t)target;
        }
        follows = kind == KIND_PLAIN || kind == KIND_FAULTS || kind == KIND_SYS;
        if (!follows && !is_conditional(op)) {
            return;
        }
    }
}

static void gather(struct emit *e) {
    memset(e->members, 0, sizeof e->members);
    memset(e->targets, 0, sizeof e->targets);
    e->num_members = 0;
    e->num_pending = 1;
    e->pending[0] = (uint16_t)e->head;
    add_to_set(e->targets, e->head);
    while (e->num_pending) {
        gather_from(e, e->pending[--e->num_pending]);
    }
}

/* ---- guest registers ---- */

static size_t x_offset(unsigned n) {
    return offsetof(struct cpu, x) + sizeof(uint64_t) * n;
}

struct val guest(struct emit *e, unsigned n) {
    if (n == X_ZERO) {
        return constant(0);
    }
    e->uses[n]++;
    return e->home[n] == NO_REG ? in_cpu(x_offset(n)) : in_reg(e->home[n]);
}

unsigned guest_in(struct emit *e, unsigned n, enum host_reg temp) {
    struct val value = guest(e, n);
    if (value.kind == IN_REG) {
        return value.reg;
    }
    host_move(e, true, temp, value);
    return temp;
}

unsigned guest_to(struct emit *e, unsigned n) {
    return e->home[n] == NO_REG ? (unsigned)T0 : e->home[n];
}

void guest_done(struct emit *e, unsigned n, unsigned reg) {
    if (n == X_SINK) {
        return;
    }
    e->uses[n]++;
    e->written |= 1ull << n;
    if (e->home[n] == NO_REG) {
        host_store_reg(e, x_offset(n), reg);
    } else {
        host_move(e, true, e->home[n], in_reg(reg));
    }
    e->sp_checked &= n != X_SP;
}

static void guest_store_all(struct emit *e) {
    for (unsigned n = 0; n <= X_SP; n++) {
        if (e->home[n] != NO_REG && e->written >> n & 1) {
            host_store_reg(e, x_offset(n), e->home[n]);
        }
    }
}

static void guest_load_all(struct emit *e) {
    for (unsigned n = 0; n <= X_SP; n++) {
        if (e->home[n] != NO_REG) {
            host_move(e, true, e->home[n], in_cpu(x_offset(n)));
        }
    }
}

/* After the survey: assign host registers to those that are used more than once, the most used first. */
static void choose_homes(struct emit *e) {
    for (unsigned reg = H_POOL; reg < NUM_HOST; reg++) {
        unsigned best = 0;
        for (unsigned n = 1; n <= X_SP; n++) {
            best = e->uses[n] > e->uses[best] ? n : best;
        }
        if (e->uses[best] < 2) {
            return;
        }
        e->home[best] = (uint8_t)reg;
        e->uses[best] = 0;
    }
}

/* ---- flags ---- */

enum { LOOK_AHEAD = 12 };

static bool dead_from(const struct emit *e, unsigned slot, unsigned depth) {
    for (; depth < LOOK_AHEAD && slot < SLOTS && in_set(e->members, slot); slot++, depth++) {
        unsigned effects = e->effects[slot], op = op_at(e, slot), target;
        if (effects & (READS_FLAGS | LEAVES)) {
            return false;
        }
        if (effects & SETS_FLAGS) {
            return true;
        }
        if (effects & BRANCHES) {
            bool is_near = branch_target(op, insn_at(e, slot), slot, &target) && target > slot;
            if (!is_near || !dead_from(e, target, depth + 1)) {
                return false;
            }
            if (!is_conditional(op)) {
                return true;
            }
        }
    }
    return false;
}

bool flags_are_dead(const struct emit *e) {
    return !e->is_survey && dead_from(e, e->slot + 1, 0);
}

void guest_flags(struct emit *e, enum flags flags, bool sf, unsigned result) {
    e->effects[e->slot] |= SETS_FLAGS;
    e->flags = flags;
    if (result != NO_REG) {
        host_save_flags(e, flags, sf, result);
    }
}

/* The survey shows whether flags are needed in struct cpu. */
static void need_flags(struct emit *e) {
    if (e->flags == FLAGS_IN_CPU) {
        e->failed |= !e->is_survey && !(e->effects[e->slot] & READS_FLAGS);
        e->effects[e->slot] |= READS_FLAGS;
    }
}

void guest_carry(struct emit *e, enum flags flags) {
    need_flags(e);
    host_carry(e, flags);
}

enum cond guest_condition(struct emit *e, unsigned cond) {
    if (cond < C_ALWAYS) {
        need_flags(e);
    }
    return host_condition(e, cond);
}

/* ---- addresses, memory ---- */

static unsigned next_label(struct emit *e) {
    if (!e->next) {
        e->next = new_label(e);
    }
    return e->next;
}

static struct later *add_later(struct emit *e, int kind, unsigned slot) {
    struct later *later = &e->later[e->num_later++];
    *later = (struct later){.kind = kind, .label = new_label(e), .slot = slot, .count = e->count};
    return later;
}

static unsigned act_label(struct emit *e) {
    if (!e->act) {
        e->act = new_label(e);
    }
    return e->act;
}

void guest_pc(struct emit *e, unsigned dst, uint64_t offset) {
    host_move(e, true, T0, in_cpu(offsetof(struct cpu, page_va)));
    host_add(e, true, dst, T0, constant(offset));
}

unsigned by_handler(struct emit *e) {
    struct later *later = add_later(e, LATER_ACT, e->slot);
    later->next = next_label(e);
    e->effects[e->slot] |= LEAVES;
    return later->label;
}

void check_base(struct emit *e, unsigned rn) {
    if (rn == X_SP && !e->sp_checked) {
        host_test_field(e, guest_in(e, X_SP, T0), offsetof(struct cpu, sp_align));
        host_jump(e, C_NE, by_handler(e));
        e->sp_checked = true;
    }
}

/* For --engine check, which leaves handlers to the interpreter, every second one does. */
static bool wanders(const struct emit *e) {
    return in_set(e->page->jit->wanders, e->slot) || (e->jit->check && e->slot & 1);
}

static void find_at_site(struct emit *e, bool write, unsigned size, unsigned element) {
    struct later *later = add_later(e, LATER_FIND, e->slot);
    later->found = new_label(e);
    later->next = next_label(e);
    later->site = e->jit->next_site++;
    later->write = write;
    later->size = (uint8_t)size;
    *later->site = (struct site){.misses = SITE_WANDERS - SITE_MISSES};
    host_find(e, write, size, element, later->site, later->label);
    host_bind(e, later->found);
}

void find_page(struct emit *e, bool write, unsigned size, unsigned element) {
    if (wanders(e)) {
        host_find_in_place(e, write, size, by_handler(e));
    } else {
        find_at_site(e, write, size, element);
    }
    if (write && e->jit->check) {
        host_check_store(e, size);
    }
    e->effects[e->slot] |= LEAVES;
}

/* ---- branches ---- */

/* Leave the region for an instruction of its page; H_COUNT and the guest registers are right at the end. */
static void emit_exit(struct emit *e, const struct later *exit) {
    const void *const *entry = &e->page->jit->entry[exit->slot];
    const void *const *leave = e->jit->stubs.leave;
    guest_store_all(e);
    if (exit->count) {
        host_count(e, exit->count);
    }
    host_move(e, true, T2, constant((uintptr_t)insn_at(e, exit->slot)));
    if (exit->status != JIT_GO) {
        host_jump_to(e, leave[exit->status]);
    } else if (exit->may_poll) {
        unsigned goes = new_label(e);
        host_compare_limit(e);
        host_jump(e, C_LT, goes);
        host_jump_to(e, leave[JIT_POLL]);
        host_bind(e, goes);
    }
    if (exit->status == JIT_GO) {
        *entry == leave[JIT_GO] ? host_jump_through(e, (const void *)entry) : host_jump_to(e, *entry);
    }
}

static unsigned exit_label(struct emit *e, unsigned slot, enum jit_status status, bool may_poll) {
    struct later *later = add_later(e, LATER_EXIT, slot);
    later->status = status;
    later->may_poll = may_poll;
    return later->label;
}

/* H_COUNT counts all instructions up to and including this one. */
static void end_block(struct emit *e) {
    host_count(e, e->count + COUNT_ONE);
    e->count = 0;
    e->counted = true;
    e->effects[e->slot] |= BRANCHES;
}

/* A backward branch within the region: a loop. */
static void jump_back(struct emit *e, enum cond cond, unsigned target) {
    unsigned stays = new_label(e);
    enum flags flags = e->flags;
    if (cond != C_ALWAYS) {
        host_jump(e, cond ^ 1, stays);
    }
    host_compare_limit(e);
    host_jump(e, C_LT, target);
    host_jump(e, C_ALWAYS, exit_label(e, target, JIT_POLL, false));
    host_bind(e, stays);
    e->flags = flags;
}

void emit_jump(struct emit *e, enum cond cond, uint64_t distance) {
    unsigned target = e->slot + (unsigned)((int64_t)distance / (int64_t)sizeof(struct insn));
    bool is_back = target <= e->slot;
    end_block(e);
    e->ended = cond == C_ALWAYS;
    if (!in_set(e->members, target)) {
        host_jump(e, cond, exit_label(e, target, JIT_GO, is_back));
    } else if (is_back) {
        jump_back(e, cond, target);
    } else {
        host_jump(e, cond, target);
    }
}

void skip_unless(struct emit *e, enum cond cond) {
    end_block(e);
    if (cond != C_ALWAYS) {
        host_jump(e, cond ^ 1, next_label(e));
    }
    e->ended = false;
}

/* To the VA in T0; the instruction falls through only after skip_unless(). */
void emit_far_jump(struct emit *e) {
    if (!e->counted) {
        end_block(e);
    }
    guest_store_all(e);
    host_move(e, true, T2, constant((uintptr_t)insn_at(e, e->slot)));
    host_jump_to(e, e->jit->stubs.branch);
    e->ended = !e->next;
}

unsigned branch_by_handler_at(struct emit *e) {
    e->effects[e->slot] |= LEAVES;
    return add_later(e, LATER_BRANCH, e->slot)->label;
}

void unless_guarded(struct emit *e) {
    host_jump(e, host_test_bit_string(e, offsetof(struct cpu, guarded), GRANULE_SHIFT, FETCH_SIZE),
              branch_by_handler_at(e));
}

void emit_indirect_jump(struct emit *e, unsigned btype) {
    end_block(e);
    host_store_reg(e, offsetof(struct cpu, btype_at), H_COUNT);
    host_store_byte(e, offsetof(struct cpu, btype), (uint8_t)btype);
    emit_far_jump(e);
}

/* ---- one instruction ---- */

static void leave_to_handler(struct emit *e) {
    emit_exit(e, &(struct later){.slot = e->slot, .count = e->count, .status = JIT_EXECUTE});
    e->counted = e->ended = true;
    e->effects[e->slot] |= LEAVES;
}

static bool is_set(uint64_t registers, unsigned n) {
    return registers >> n & 1;
}

/* Call the handler, which reads and writes these guest registers and no other, and touches no memory. */
void call_handler(struct emit *e, uint64_t reads, uint64_t writes) {
    unsigned op = op_at(e, e->slot);
    for (unsigned n = 0; n <= X_SP; n++) {
        bool is_home = e->home[n] != NO_REG, is_lost = is_home && !host_call_keeps(e->home[n]);
        if (is_home && is_set(e->written, n) && (is_lost || is_set(reads | writes, n))) {
            host_store_reg(e, x_offset(n), e->home[n]);
        }
    }
    host_call_handler(e, op_infos[op].act, insn_at(e, e->slot));
    for (unsigned n = 0; n <= X_SP; n++) {
        if (e->home[n] != NO_REG && (!host_call_keeps(e->home[n]) || is_set(writes, n))) {
            host_move(e, true, e->home[n], in_cpu(x_offset(n)));
        }
    }
    e->written |= writes & ones(X_SP + 1);
    if ((op_infos[op].kind & ~KIND_FP) == KIND_FAULTS) {
        host_test_answer(e);
        host_jump(e, C_EQ, exit_label(e, e->slot, JIT_FAULT, false));
    }
    e->flags = FLAGS_IN_CPU;
    e->sp_checked &= !is_set(writes, X_SP);
    e->effects[e->slot] |= LEAVES;
}

static uint64_t bit(unsigned n) {
    return 1ull << n;
}

void act_by_handler(struct emit *e) {
    const struct insn *i = insn_at(e, e->slot);
    if ((op_infos[op_at(e, e->slot)].kind & ~KIND_FP) == KIND_PLAIN) {
        call_handler(e, bit(i->rn) | bit(i->rm) | bit(i->ra), bit(i->rd));
        return;
    }
    if (e->jit->check) {
        leave_to_handler(e);
        return;
    }
    host_act_arguments(e, e->slot, e->count);
    host_call(e, act_label(e));
    e->flags = FLAGS_IN_CPU;
    e->sp_checked = false;
    e->fp_checked &= op_infos[op_at(e, e->slot)].kind != KIND_SYS;
    e->effects[e->slot] |= LEAVES;
}

static void call_branch(struct emit *e, unsigned slot, int32_t count) {
    guest_store_all(e);
    host_act_arguments(e, slot, count);
    host_jump_to(e, e->jit->stubs.branch_c);
}

static void branch_by_handler(struct emit *e) {
    if (e->jit->check) {
        leave_to_handler(e);
        return;
    }
    call_branch(e, e->slot, e->count);
    e->counted = e->ended = true;
    e->effects[e->slot] |= LEAVES;
}

static void check_fp(struct emit *e) {
    if (!e->fp_checked) {
        host_compare_field(e, offsetof(struct cpu, fp_trap), 0);
        host_jump(e, C_NE, exit_label(e, e->slot, JIT_EXECUTE, false));
        e->fp_checked = true;
        e->effects[e->slot] |= LEAVES;
    }
}

static void begin_at_label(struct emit *e) {
    if (e->count) {
        host_count(e, e->count);
        e->count = 0;
    }
    host_bind(e, e->slot);
    e->flags = FLAGS_IN_CPU;
    e->fp_checked = e->sp_checked = false;
}

static void emit_insn(struct emit *e) {
    unsigned op = op_at(e, e->slot), kind = op_infos[op].kind;
    e->next = 0;
    e->counted = e->ended = false;
    if (kind & KIND_FP) {
        check_fp(e);
    }
    if (emitters[op]) {
        emitters[op](e, insn_at(e, e->slot));
    } else {
        bool is_branch = (kind & ~KIND_FP) == KIND_BRANCH || kind == KIND_INDIRECT;
        is_branch ? branch_by_handler(e) : act_by_handler(e);
    }
    if (!e->counted) {
        e->count += COUNT_ONE;
    }
    if (e->next) {
        host_bind(e, e->next);
        e->flags = FLAGS_IN_CPU;
    }
}

/* ---- the region ---- */

static void emit_body(struct emit *e) {
    guest_load_all(e);
    host_jump(e, C_ALWAYS, e->head);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        if (!in_set(e->members, slot)) {
            continue;
        }
        e->slot = slot;
        if (in_set(e->targets, slot)) {
            begin_at_label(e);
        }
        emit_insn(e);
        bool falls_out = slot + 1 == SLOTS || !in_set(e->members, slot + 1);
        if (!e->ended && falls_out) {
            emit_exit(e, &(struct later){.slot = slot + 1, .count = e->count});
        }
        e->count = e->ended || falls_out ? 0 : e->count;
    }
}

static void emit_later(struct emit *e, const struct later *later) {
    host_bind(e, later->label);
    if (later->kind == LATER_EXIT) {
        emit_exit(e, later);
        return;
    }
    if (later->kind == LATER_FIND) {
        host_find_slowly(e, later->write, later->size, later->site, later->found);
    }
    if (e->jit->check) {
        emit_exit(e, &(struct later){.slot = later->slot, .count = later->count, .status = JIT_EXECUTE});
        return;
    }
    if (later->kind == LATER_BRANCH) {
        call_branch(e, later->slot, later->count);
        return;
    }
    host_act_arguments(e, later->slot, later->count);
    host_call(e, act_label(e));
    host_jump(e, C_ALWAYS, later->next);
}

/* The region's routine: let the handler execute an instruction, and return to the region if it continues. */
static void emit_act(struct emit *e) {
    unsigned leaves = new_label(e);
    host_bind(e, e->act);
    guest_store_all(e);
    host_call_act(e, leaves);
    guest_load_all(e);
    host_return(e);
    host_bind(e, leaves);
    host_leave_act(e);
}

static void emit_all(struct emit *e) {
    e->at = e->start;
    e->num_labels = SLOTS;
    e->num_fixups = e->num_later = e->act = 0;
    e->count = 0;
    emit_body(e);
    for (unsigned k = 0; k < e->num_later; k++) {
        emit_later(e, &e->later[k]);
    }
    if (e->act) {
        emit_act(e);
    }
}

const void *emit_region(struct emit *e, struct code_page *page, unsigned head) {
    struct site *first_site = e->jit->next_site;
    e->page = page;
    e->head = head;
    gather(e);
    if (!e->num_members) {
        return NULL;
    }
    e->start = e->jit->at;
    memset(e->home, NO_REG, sizeof e->home);
    memset(e->uses, 0, sizeof e->uses);
    memset(e->effects, 0, sizeof e->effects);
    e->written = 0;
    e->failed = false;
    e->is_survey = true;
    emit_all(e);
    e->is_survey = false;
    choose_homes(e);
    e->jit->next_site = first_site;
    emit_all(e);
    if (e->failed) {
        return NULL;
    }
    host_resolve(e);
    host_finish(e);
    e->jit->at = (uint8_t *)(((uintptr_t)e->at + 15) & ~15ull);
    return e->start + e->to_run;
}
