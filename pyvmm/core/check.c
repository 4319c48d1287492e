/*
 * Check translated code against the interpreter, region by region.
 *
 * A region runs first, and its stores are logged; then they are undone, the registers are restored, and the handlers
 * execute the same number of instructions.  The results must be equal.  Instructions for which translated code would
 * call a handler that may fault or store end the region instead (emit.c), so that only repeatable operations are done
 * twice.
 *
 * This is only for machines with one PE: another one could change memory in between.
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "guest.h"
#include "pstate.h"

enum { MAX_STORES = 1 << 16, MAX_STORE = 64 }; /* more than between two polls; bytes of one */

/* The state that a region may change. */
struct registers {
    uint64_t x[NUM_X];
    uint32_t nzcv, fpcr, fpsr;
    union v128 v[32];
    struct insn *ops;
    uint64_t page_va, pc;
    uint64_t excl_va, excl_value[2], excl_size;
    struct pe_state st;
};

struct check {
    struct registers before, found, expected;
    uint32_t num_stores;
    struct store {
        uint8_t *host;
        uint64_t size;
        uint8_t before[MAX_STORE], found[MAX_STORE];
    } stores[MAX_STORES];
};

struct check *check_new(void) {
    return calloc(1, sizeof(struct check));
}

void check_store(struct cpu *cpu, uint8_t *host, uint64_t size) {
    struct check *check = cpu->jit->check;
    struct store *store = &check->stores[check->num_stores++];
    store->host = host;
    store->size = size;
    guest_read(store->before, host, size);
}

static void save(const struct cpu *cpu, struct registers *r) {
    memset(r, 0, sizeof *r);
    memcpy(r->x, cpu->x, sizeof r->x);
    memcpy(r->v, cpu->v, sizeof r->v);
    r->x[X_SINK] = 0;
    r->nzcv = cpu_nzcv(cpu);
    r->fpcr = cpu->fpcr;
    r->fpsr = cpu->fpsr;
    r->ops = cpu->ops;
    r->page_va = cpu->page_va;
    r->pc = cpu->pc;
    r->excl_va = cpu->excl_va;
    r->excl_size = cpu->excl_size;
    memcpy(r->excl_value, cpu->excl_value, sizeof r->excl_value);
    r->st = cpu->st;
}

static void restore(struct cpu *cpu, const struct registers *r) {
    memcpy(cpu->x, r->x, sizeof r->x);
    memcpy(cpu->v, r->v, sizeof r->v);
    cpu_set_nzcv(cpu, r->nzcv);
    cpu->fpcr = r->fpcr;
    cpu->fpsr = r->fpsr;
    cpu->ops = r->ops;
    cpu->page_va = r->page_va;
    cpu->pc = r->pc;
    cpu->excl_va = r->excl_va;
    cpu->excl_size = r->excl_size;
    memcpy(cpu->excl_value, r->excl_value, sizeof r->excl_value);
    cpu->st = r->st;
}

/* Record the results of the stores, then undo them. */
static void undo_stores(struct check *check) {
    for (uint32_t k = 0; k < check->num_stores; k++) {
        guest_read(check->stores[k].found, check->stores[k].host, check->stores[k].size);
    }
    for (uint32_t k = check->num_stores; k-- > 0;) {
        guest_write(check->stores[k].host, check->stores[k].before, check->stores[k].size);
    }
}

static bool is_same(const void *a, const void *b, size_t size) {
    return memcmp(a, b, size) == 0;
}

static bool stores_agree(const struct check *check) {
    uint8_t now[MAX_STORE];
    for (uint32_t k = 0; k < check->num_stores; k++) {
        const struct store *store = &check->stores[k];
        guest_read(now, store->host, store->size);
        if (!is_same(now, store->found, store->size)) {
            return false;
        }
    }
    return true;
}

/* From the end of a page to the next one, as translated code goes there at once. */
static const struct insn *next_page(struct cpu *cpu) {
    uint64_t va = cpu->page_va + GRANULE_SIZE;
    const struct fetch_entry *e = &cpu->fetch[va >> GRANULE_SHIFT & (FETCH_SIZE - 1)];
    if (e->tag != va) {
        cpu->pc = va;
        return &refetch_insn;
    }
    cpu->ops = e->ops;
    cpu->page_va = va;
    return e->ops;
}

/* @return the next instruction, NULL if this one failed or is none that translated code would have executed */
static const struct insn *execute(struct cpu *cpu, const struct insn *i) {
    const struct op_info *info = &op_infos[jit_op(cpu->ops, (unsigned)(i - cpu->ops))];
    if (info->kind == KIND_BRANCH || info->kind == KIND_INDIRECT) {
        i = info->branch(cpu, i);
    } else {
        unsigned kind = info->kind & ~KIND_FP;
        i = (kind == KIND_PLAIN || kind == KIND_FAULTS) && info->act(cpu, i) ? i + 1 : NULL;
    }
    return i && i == cpu->ops + SLOTS ? next_page(cpu) : i;
}

struct jit_exit check_run(struct cpu *cpu, const struct insn *i, int64_t count) {
    struct check *check = cpu->jit->check;
    check->num_stores = 0;
    save(cpu, &check->before);
    struct jit_exit exit = cpu->jit->stubs.enter(cpu, count, page_of(cpu->ops)->jit->entry[i - cpu->ops]);
    save(cpu, &check->found);
    undo_stores(check);
    restore(cpu, &check->before);
    const struct insn *next = i;
    for (; count < cpu->jit_count; count += COUNT_ONE) {
        next = execute(cpu, next);
        if (!next) {
            break;
        }
    }
    save(cpu, &check->expected);
    if (next != exit.insn || !is_same(&check->expected, &check->found, sizeof check->found) || !stores_agree(check)) {
        exit.status = JIT_DIFFERS;
        cpu->exit->far = check->before.page_va + 4 * (uint64_t)(i - check->before.ops);
    }
    return exit;
}
