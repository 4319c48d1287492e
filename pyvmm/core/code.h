/*
 * Decoded pages: the decoded instructions of a granule, and functions that drop them.
 */
#ifndef PYVMM_CORE_CODE_H
#define PYVMM_CORE_CODE_H

#include <stddef.h>

#include "cpu.h"

enum { SLOTS = GRANULE_SIZE / 4, MAX_PAGES = 8192 };

struct jit_page;

struct code_page {
    const uint8_t *host;
    struct jit_page *jit; /* NULL: nothing is translated */
    uint32_t writes;      /* stores since the page was last empty */
    bool live;            /* some slot may be decoded */
    struct insn ops[SLOTS + 1];
};

static inline struct code_page *page_of(const struct insn *ops) {
    return (struct code_page *)((char *)(uintptr_t)ops - offsetof(struct code_page, ops));
}
static inline bool in_set(const uint64_t slots[SLOT_WORDS], unsigned slot) {
    return slots[slot / 64] >> slot % 64 & 1;
}
static inline void add_to_set(uint64_t slots[SLOT_WORDS], unsigned slot) {
    slots[slot / 64] |= 1ull << slot % 64;
}

struct code_cache *code_cache_new(void); /* NULL: no memory */
void code_cache_free(struct code_cache *cache);

/* The decoded page of a granule, made if absent. */
struct insn *code_page(struct cpu *cpu, enum pas pas, uint64_t pa);
void code_for_each_page(struct cpu *cpu, void (*visit)(struct cpu *cpu, struct code_page *page));
/* The current word in memory for a slot of a decoded page. */
uint32_t code_word(const struct insn *ops, unsigned slot);
/* Call this before decoding a slot of the page: from now on stores to its granule are noticed. */
void code_claim(struct cpu *cpu, const struct insn *ops);
/* A copy of the page for one instruction, the only one decoded in it: the next slot is OP_STEPPED. */
struct insn *code_step_page(struct cpu *cpu, const struct insn *ops, unsigned slot);

/* Handle a store, behind the TLB, to a granule with decoded code. */
void code_written(struct cpu *cpu, const uint8_t *host, unsigned size);
/* Make these slots of every page be decoded again. */
void code_forget_slots(struct cpu *cpu, const uint64_t slots[SLOT_WORDS]);
void code_drop_page(struct cpu *cpu, const uint8_t *host_page);
void code_drop_all(struct cpu *cpu);

#endif
