/*
 * Decoded code pages of one PE.
 *
 * A decoded page belongs to a granule of host memory: 1024 slots, decoded on first execution, and a tail that
 * continues to the next page.  Slots contain no virtual address, so all mappings of the granule share them.
 *
 * Coherence: while any slot of a granule is decoded, machine->has_code has this PE's bit for it, and no TLB entry of
 * this PE lets a store to it pass unnoticed (write_tag unset).  Such a store resets the slots that it changes; many of
 * them reset the whole page and allow plain stores again.  Other PEs and the host are notified through
 * INVAL_CODE_PAGE; between PEs the guest's own IC IVAU and DSB make the change visible, as the architecture requires
 * (CTR_EL0.DIC = 0).
 *
 * All this may happen while an instruction of the page is being executed: through its own store, its IC, or an
 * invalidation that it serves while it waits.  Its handler continues to read its operands, so resetting a slot changes
 * only `op`.  Operands are replaced only by decoding, which the interpreter does between two instructions.
 */
#include "code.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "inval.h"
#include "regions.h"
#include "tlb.h"

#include "gen/ops.h"

enum { HASH_BITS = 15, HASH_SIZE = 1 << HASH_BITS, MAX_WRITES = 32 };

struct code_cache {
    struct code_page *pages; /* MAX_PAGES and the step page; memory is used on demand */
    uint32_t num_pages;
    uint32_t stepped; /* the decoded slot of the step page */
    uint16_t hash[HASH_SIZE]; /* page index + 1, linear probing; emptied only as a whole */
};

struct code_cache *code_cache_new(void) {
    struct code_cache *cache = calloc(1, sizeof *cache);
    if (!cache) {
        return NULL;
    }
    cache->pages = mmap(NULL, (MAX_PAGES + 1) * sizeof(struct code_page), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache->pages == MAP_FAILED) {
        free(cache);
        return NULL;
    }
    return cache;
}

void code_cache_free(struct code_cache *cache) {
    if (cache) {
        munmap(cache->pages, (MAX_PAGES + 1) * sizeof(struct code_page));
        free(cache);
    }
}

/* The has_code word of the granule of a host address; NULL if it is not guest memory. */
static _Atomic uint64_t *has_code_of(const struct machine *machine, const uint8_t *host) {
    for (unsigned pas = 0; pas < NUM_PAS; pas++) {
        uint64_t offset = (uint64_t)(host - machine->memory[pas]);
        if (host >= machine->memory[pas] && offset < machine->dram_size) {
            return &machine->has_code[pas][offset >> GRANULE_SHIFT];
        }
    }
    return NULL;
}

static uint64_t pe_bit(const struct cpu *cpu) {
    return 1ull << cpu->index;
}

/* Return the hash cell of a host page: its own, or the empty one for it. */
static uint16_t *find(const struct code_cache *cache, const uint8_t *host) {
    size_t cell = ((uintptr_t)host >> GRANULE_SHIFT) * 0x9e3779b97f4a7c15ull >> (64 - HASH_BITS);
    while (cache->hash[cell] && cache->pages[cache->hash[cell] - 1].host != host) {
        cell = (cell + 1) % HASH_SIZE;
    }
    return (uint16_t *)(uintptr_t)&cache->hash[cell];
}

static void reset(struct cpu *cpu, struct code_page *page) {
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        page->ops[slot].op = OP_DECODE;
    }
    page->ops[SLOTS].op = OP_NEXT_PAGE;
    page->writes = 0;
    if (page->jit) {
        regions_reset(cpu, page);
    }
    if (page->live) {
        page->live = false;
        atomic_fetch_and(has_code_of(cpu->machine, page->host), ~pe_bit(cpu));
    }
}

/* Drop all pages, also from the fetch TLB.  Only safe if the caller fetches again. */
static void forget_all(struct cpu *cpu) {
    struct code_cache *cache = cpu->code;
    for (uint32_t k = 0; k < cache->num_pages; k++) {
        reset(cpu, &cache->pages[k]);
    }
    cache->num_pages = 0;
    memset(cache->hash, 0, sizeof cache->hash);
    tlb_drop_fetches(cpu);
}

struct insn *code_page(struct cpu *cpu, enum pas pas, uint64_t pa) {
    struct code_cache *cache = cpu->code;
    const uint8_t *host = cpu->machine->memory[pas] + ((pa & PAGE_MASK) - cpu->machine->dram_base);
    uint16_t *cell = find(cache, host);
    if (!*cell) {
        if (cache->num_pages == MAX_PAGES) {
            forget_all(cpu);
            cell = find(cache, host);
        }
        struct code_page *page = &cache->pages[cache->num_pages++];
        *cell = (uint16_t)cache->num_pages;
        page->host = host;
        page->jit = cpu->jit ? &cpu->jit->pages[page - cache->pages] : NULL;
        page->live = false;
        reset(cpu, page);
    }
    return cache->pages[*cell - 1].ops;
}

uint32_t code_word(const struct insn *ops, unsigned slot) {
    return __atomic_load_n((const uint32_t *)page_of(ops)->host + slot, __ATOMIC_RELAXED);
}

void code_claim(struct cpu *cpu, const struct insn *ops) {
    struct code_page *page = page_of(ops);
    if (page->live) {
        return;
    }
    page->live = true;
    atomic_fetch_or(has_code_of(cpu->machine, page->host), pe_bit(cpu));
    tlb_flush_writes(cpu, page->host);
    if (cpu->machine->num_pes > 1) {
        cpu_post_inval(cpu, (struct inval){.kind = INVAL_WRITES, .addr = (uintptr_t)page->host}, true);
    }
}

struct insn *code_step_page(struct cpu *cpu, const struct insn *ops, unsigned slot) {
    struct code_cache *cache = cpu->code;
    struct code_page *page = &cache->pages[MAX_PAGES];
    for (unsigned k = 0; !page->live && k <= SLOTS; k++) {
        page->ops[k].op = OP_STEPPED;
    }
    page->live = true;
    page->host = page_of(ops)->host;
    page->ops[cache->stepped].op = OP_STEPPED;
    cache->stepped = slot;
    return page->ops;
}

void code_for_each_page(struct cpu *cpu, void (*visit)(struct cpu *cpu, struct code_page *page)) {
    for (uint32_t k = 0; k < cpu->code->num_pages; k++) {
        visit(cpu, &cpu->code->pages[k]);
    }
}

static void forget(struct cpu *cpu, struct code_page *page, unsigned first, unsigned last) {
    if (page->jit) {
        regions_changed(cpu, page, first, last);
    }
    for (unsigned slot = first; slot <= last; slot++) {
        page->ops[slot].op = OP_DECODE;
    }
}

void code_forget_slots(struct cpu *cpu, const uint64_t slots[SLOT_WORDS]) {
    for (uint32_t k = 0; k < cpu->code->num_pages; k++) {
        struct code_page *page = &cpu->code->pages[k];
        for (unsigned slot = 0; page->live && slot < SLOTS; slot++) {
            if (in_set(slots, slot)) {
                forget(cpu, page, slot, slot);
            }
        }
    }
}

void code_written(struct cpu *cpu, const uint8_t *host, unsigned size) {
    const uint8_t *host_page = (const uint8_t *)((uintptr_t)host & PAGE_MASK);
    _Atomic uint64_t *owners = has_code_of(cpu->machine, host);
    uint64_t holders = owners ? atomic_load(owners) : 0;
    if (holders & ~pe_bit(cpu)) {
        cpu_post_inval(cpu, (struct inval){.kind = INVAL_CODE_PAGE, .addr = (uintptr_t)host_page}, true);
    }
    uint16_t cell = *find(cpu->code, host_page);
    struct code_page *page = cell ? &cpu->code->pages[cell - 1] : NULL;
    if (!page || !page->live) {
        return;
    }
    if (++page->writes > MAX_WRITES) {
        reset(cpu, page);
        return;
    }
    unsigned first = (unsigned)(host - host_page) / 4, last = (unsigned)(host - host_page + size - 1) / 4;
    forget(cpu, page, first, last < SLOTS ? last : SLOTS - 1);
}

void code_drop_page(struct cpu *cpu, const uint8_t *host_page) {
    uint16_t cell = *find(cpu->code, host_page);
    if (cell && cpu->code->pages[cell - 1].live) {
        reset(cpu, &cpu->code->pages[cell - 1]);
    }
}

void code_drop_all(struct cpu *cpu) {
    for (uint32_t k = 0; k < cpu->code->num_pages; k++) {
        if (cpu->code->pages[k].live) {
            reset(cpu, &cpu->code->pages[k]);
        }
    }
}
