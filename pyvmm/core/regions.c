/*
 * The regions of a decoded page: where they may begin, and when they are dropped.
 *
 * A region begins at a head, a slot that is a branch target or is reached from another page.  Heads have OP_HEAT,
 * which counts executions, and later OP_JIT; their own op is in struct jit_page.  When a word inside any region of the
 * page changes, all regions of the page are dropped.
 */
#include "regions.h"

#include <string.h>

/* ---- heads ---- */

bool branch_target(unsigned op, const struct insn *i, unsigned slot, unsigned *target) {
    if (op < OP_B || op > OP_TBZ_1) {
        return false;
    }
    *target = slot + (unsigned)((int64_t)i->imm / (int64_t)sizeof *i);
    return true;
}

static bool ends_block(unsigned op) {
    unsigned kind = op_infos[op].kind;
    return kind == KIND_NONE || kind == KIND_BRANCH || kind == KIND_INDIRECT || kind == KIND_SYS;
}

static void make_head(struct code_page *page, unsigned slot) {
    uint16_t *op = &page->ops[slot].op;
    unsigned kind = op_infos[*op].kind;
    if (kind != KIND_NONE && kind != KIND_SYS) {
        page->jit->op[slot] = *op;
        *op = OP_HEAT;
    }
}

void regions_add_head(struct code_page *page, unsigned slot) {
    add_to_set(page->jit->heads, slot);
    make_head(page, slot);
}

/* Heads are the targets of branches in the page, and slots
 * whose predecessor is not decoded or does not fall through. */
void regions_decoded(struct code_page *page, unsigned slot) {
    struct jit_page *jit = page->jit;
    unsigned target, op = page->ops[slot].op;
    if (branch_target(op, &page->ops[slot], slot, &target)) {
        regions_add_head(page, target);
    }
    if (slot == 0 || in_set(jit->heads, slot) || ends_block(page_op(page, slot - 1))) {
        make_head(page, slot);
    }
}

/* ---- dropping regions ---- */

void regions_drop(struct cpu *cpu, struct code_page *page) {
    struct jit_page *jit = page->jit;
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        if (jit->entry[slot] != cpu->jit->stubs.leave[JIT_GO]) {
            jit->entry[slot] = cpu->jit->stubs.leave[JIT_GO];
            jit->heat[slot] = 0;
            if (page->ops[slot].op == OP_JIT) {
                page->ops[slot].op = OP_HEAT;
            }
        }
    }
    memset(jit->covered, 0, sizeof jit->covered);
    jit->drops++;
}

void regions_wander(struct cpu *cpu, struct code_page *page, unsigned slot) {
    add_to_set(page->jit->wanders, slot);
    regions_drop(cpu, page);
}

void regions_reset(struct cpu *cpu, struct code_page *page) {
    struct jit_page *jit = page->jit;
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        jit->entry[slot] = cpu->jit->stubs.leave[JIT_GO];
    }
    jit->entry[SLOTS] = cpu->jit->stubs.next_page;
    memset(jit->heads, 0, sizeof jit->heads);
    memset(jit->covered, 0, sizeof jit->covered);
    memset(jit->wanders, 0, sizeof jit->wanders);
    memset(jit->heat, 0, sizeof jit->heat);
    jit->drops++;
}

void regions_changed(struct cpu *cpu, struct code_page *page, unsigned first, unsigned last) {
    for (unsigned slot = first; slot <= last; slot++) {
        if (in_set(page->jit->covered, slot)) {
            regions_drop(cpu, page);
            return;
        }
    }
}
