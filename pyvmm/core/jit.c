/*
 * The translator's memory, and the interface between translated code and the rest of the core.
 *
 * There is one arena per PE, used only by that PE's thread.  Code is written through one mapping of a memfd and runs
 * in another, so no page is ever writable and executable at the same address.  When the arena is full, all regions are
 * dropped, and it starts again; this happens in the interpreter, when none of its code is being executed.
 *
 * While translated code runs, only the handlers that it calls can change its page.  After each of them jit_act()
 * checks whether the page's regions were dropped (regions.c), and if so leaves the region, whose code stays in place
 * until the arena starts again.
 */
#define _GNU_SOURCE
#include "jit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "emit.h"
#include "host.h"
#include "regions.h"

enum {
    CODE_SIZE = 128 << 20, /* a compiler fills 32 MB again and again */
    REGION_ROOM = 128 << 10, /* more than the code of any region */
    SITES = 4 << 20,
    SITE_ROOM = 2 * MAX_REGION, /* an atomic has two */
    PAGES_SIZE = (sizeof(struct jit_page) * MAX_PAGES + GRANULE_SIZE - 1) & PAGE_MASK,
    SITES_SIZE = SITES * sizeof(struct site),
    RESERVED_SIZE = CODE_SIZE + SITES_SIZE + PAGES_SIZE, /* all reachable with a 32-bit displacement */
};

/* ---- memory ---- */

static bool map_code(struct jit *jit, int fd) {
    if (ftruncate(fd, CODE_SIZE) < 0) {
        return false;
    }
    jit->code = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (jit->code == MAP_FAILED) {
        jit->code = NULL;
        return false;
    }
    jit->reserved =
        mmap(NULL, RESERVED_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (jit->reserved == MAP_FAILED) {
        jit->reserved = NULL;
        return false;
    }
    return mmap(jit->reserved, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED;
}

static void restart_arena(struct jit *jit) {
    jit->at = jit->first;
    jit->next_site = jit->sites;
}

struct jit *jit_new(struct cpu *cpu, unsigned threshold, bool checks) {
    struct jit *jit = calloc(1, sizeof *jit);
    if (!jit) {
        return NULL;
    }
    int fd = memfd_create("pyvmm-code", MFD_CLOEXEC);
    bool ok = fd >= 0 && map_code(jit, fd);
    if (fd >= 0) {
        close(fd);
    }
    jit->emit = ok ? calloc(1, sizeof *jit->emit) : NULL;
    jit->check = checks ? check_new() : NULL;
    if (!jit->emit || (checks && !jit->check)) {
        jit_free(jit);
        return NULL;
    }
    jit->threshold = threshold;
    jit->to_run = (uint8_t *)jit->reserved - jit->code;
    jit->sites = (struct site *)((uint8_t *)jit->reserved + CODE_SIZE);
    jit->pages = (struct jit_page *)((uint8_t *)jit->sites + SITES_SIZE);
    *jit->emit = (struct emit){.cpu = cpu, .jit = jit, .to_run = jit->to_run, .at = jit->code, .start = jit->code};
    host_emit_stubs(jit->emit, &(struct host_calls){jit_act, jit_branch, check_store, &refetch_insn});
    host_finish(jit->emit);
    jit->first = jit->emit->at;
    restart_arena(jit);
    return jit;
}

void jit_free(struct jit *jit) {
    if (jit) {
        if (jit->reserved) {
            munmap(jit->reserved, RESERVED_SIZE);
        }
        if (jit->code) {
            munmap(jit->code, CODE_SIZE);
        }
        free(jit->check);
        free(jit->emit);
        free(jit);
    }
}

/* ---- translation ---- */

static void drop_all_regions(struct cpu *cpu) {
    code_for_each_page(cpu, regions_drop);
    restart_arena(cpu->jit);
}

static bool is_full(const struct jit *jit) {
    return jit->at + REGION_ROOM > jit->code + CODE_SIZE || jit->next_site + SITE_ROOM > jit->sites + SITES;
}

static bool translate(struct cpu *cpu, struct code_page *page, unsigned head) {
    struct jit *jit = cpu->jit;
    if (is_full(jit)) {
        drop_all_regions(cpu);
    }
    const void *code = emit_region(jit->emit, page, head);
    if (!code) {
        return false;
    }
    for (unsigned k = 0; k < SLOT_WORDS; k++) {
        page->jit->covered[k] |= jit->emit->members[k];
    }
    jit->num_regions++;
    page->jit->entry[head] = code;
    page->ops[head].op = OP_JIT;
    return true;
}

bool jit_heat(struct cpu *cpu, const struct insn *i) {
    struct code_page *page = page_of(cpu->ops);
    unsigned slot = (unsigned)(i - cpu->ops);
    if (++page->jit->heat[slot] < cpu->jit->threshold) {
        return false;
    }
    page->jit->heat[slot] = 0;
    return translate(cpu, page, slot);
}

struct jit_exit jit_run(struct cpu *cpu, const struct insn *i, int64_t count) {
    if (unlikely(cpu->jit->check)) {
        return check_run(cpu, i, count);
    }
    return cpu->jit->stubs.enter(cpu, count, page_of(cpu->ops)->jit->entry[i - cpu->ops]);
}

/* ---- called by translated code ---- */

static const void *go_on(struct cpu *cpu, enum jit_status status, const struct insn *i, int64_t count) {
    cpu->jit_insn = i;
    cpu->jit_count = count;
    return cpu->jit->stubs.leave[status];
}

/* Like the interpreter's SYS, which also does what follows unless nothing does. */
static const void *act_system(struct cpu *cpu, const struct op_info *info, const struct insn *i, int64_t count) {
    const struct jit_page *page = page_of(cpu->ops)->jit;
    uint32_t drops = page->drops;
    cpu->pc = cpu->page_va + 4 * (uint64_t)(i - cpu->ops);
    cpu->icount = (uint64_t)count / COUNT_ONE;
    cpu->jit_step = info->system(cpu, i);
    bool stays = cpu->jit_step == STEP_NEXT && page->drops == drops;
    return stays && !atomic_load_explicit(&cpu->request, memory_order_relaxed) ? NULL
                                                                               : go_on(cpu, JIT_SYSTEM, i, count);
}

const void *jit_act(struct cpu *cpu, unsigned slot, int64_t count) {
    const struct insn *i = cpu->ops + slot;
    const struct op_info *info = &op_infos[jit_op(cpu->ops, slot)];
    if (info->kind == KIND_SYS) {
        return act_system(cpu, info, i, count);
    }
    const struct jit_page *page = page_of(cpu->ops)->jit;
    uint32_t drops = page->drops;
    if (unlikely(cpu->jit_wanders)) {
        cpu->jit_wanders = false;
        regions_wander(cpu, page_of(cpu->ops), slot);
    }
    if (!info->act(cpu, i)) {
        return go_on(cpu, JIT_FAULT, i, count);
    }
    return page->drops == drops ? NULL : go_on(cpu, JIT_GO, i + 1, count + COUNT_ONE);
}

/* Like the interpreter's BRANCH and INDIRECT. */
const void *jit_branch(struct cpu *cpu, unsigned slot, int64_t count) {
    const struct insn *i = cpu->ops + slot;
    const struct op_info *info = &op_infos[jit_op(cpu->ops, slot)];
    const struct insn *next = info->branch(cpu, i);
    if (!next) {
        return go_on(cpu, JIT_FAULT, i, count);
    }
    count += COUNT_ONE;
    if (info->kind == KIND_INDIRECT) {
        cpu->btype_at = count;
    }
    bool polls = next <= i && count >= cpu->limit;
    const void *leave = go_on(cpu, polls ? JIT_POLL : JIT_GO, next, count);
    return polls || next == &refetch_insn ? leave : page_of(cpu->ops)->jit->entry[next - cpu->ops];
}
