/*
 * Decode an A64 word to a struct insn: find the first matching row of its bucket, the op and the operands.
 */
#include "decode.h"

#include <stddef.h>

#include "code.h"
#include "regions.h"

#include "gen/ops.h"

struct row {
    uint32_t mask, bits;
    uint16_t op;
    uint16_t features; /* enum feature: all features that the machine must have */
    uint32_t (*variant)(uint32_t w);
    bool (*decode)(struct insn *i, uint32_t w);
};

#include "gen/calls.h"
#include "gen/decode.h"
#include "gen/names.h"

static unsigned bucket(uint32_t w) {
    return bits(w, 22, 8) << 4 | bits(w, 10, 4);
}

static const struct row *find_row(uint32_t w, uint32_t features) {
    for (unsigned k = bucket_start[bucket(w)]; k < bucket_start[bucket(w) + 1]; k++) {
        const struct row *row = &rows[bucket_rows[k]];
        if ((w & row->mask) == row->bits && !(row->features & ~features)) {
            return row;
        }
    }
    return NULL;
}

static void decode_insn(struct insn *i, uint32_t w, unsigned slot, uint32_t features) {
    const struct row *row = find_row(w, features);
    struct insn out = {.rd = bits(w, 0, 5), .rn = bits(w, 5, 5), .rm = bits(w, 16, 5), .ra = bits(w, 10, 5), .imm = w};
    out.op = OP_UNDEFINED;
    if (row) {
        out.op = row->variant ? row->variant(w) : row->op;
        out.aux = slot;
        if (row->decode && !row->decode(&out, w)) {
            out.op = OP_UNDEFINED;
        }
    }
    *i = out;
}

static void decode_word(const struct cpu *cpu, struct insn *ops, unsigned slot) {
    decode_insn(&ops[slot], code_word(ops, slot), slot, cpu->machine->features);
}

void decode_slot(struct cpu *cpu, struct insn *ops, unsigned slot) {
    code_claim(cpu, ops);
    decode_word(cpu, ops, slot);
    if (unlikely(cpu->debug.break_slots[slot / 64] >> slot % 64 & 1)) {
        ops[slot].op = OP_DEBUG;
    } else if (cpu->jit) {
        regions_decoded(page_of(ops), slot);
    }
}

uint16_t decode_marked_slot(struct cpu *cpu, struct insn *ops, unsigned slot) {
    decode_word(cpu, ops, slot);
    uint16_t op = ops[slot].op;
    ops[slot].op = OP_DEBUG;
    return op;
}

struct insn *decode_step(struct cpu *cpu, const struct insn *ops, unsigned slot) {
    struct insn *page = code_step_page(cpu, ops, slot);
    decode_word(cpu, page, slot);
    return page;
}

uint32_t core_decode(uint32_t word) {
    struct insn i;
    decode_insn(&i, word, 0, ~0u);
    return i.op;
}

const char *core_op_name(uint32_t op) {
    return op < NUM_OPS ? op_names[op] : "?";
}

uint32_t core_num_ops(void) {
    return NUM_OPS;
}
