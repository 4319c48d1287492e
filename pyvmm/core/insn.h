/*
 * One decoded instruction, and the places of a handler's operands in it.
 *
 * A64 words are decoded once into a struct insn and executed many times.  Register numbers are indexes into cpu->x: 31
 * means the current SP, X_ZERO reads as zero, X_SINK ignores a write, so no handler tests for register 31.  Rows
 * without a `decode=` function get the raw numbers (Rd [4:0], Rn [9:5], Rm [20:16], Ra [14:10]) and imm = the word:
 * right for vector registers, and a handler takes further fields from the word with the generated <ROW>_<field>(w).
 */
#ifndef PYVMM_CORE_INSN_H
#define PYVMM_CORE_INSN_H

#include <stdbool.h>
#include <stdint.h>

enum { X_SP = 31, X_ZERO = 32, X_SINK = 33, NUM_X = 34 };

struct insn {
    uint16_t op; /* enum op; 0 = OP_DECODE: not decoded yet */
    uint8_t rd, rn, rm, ra;
    uint16_t aux;
    uint64_t imm;
};

_Static_assert(sizeof(struct insn) == 16, "a decoded page is 1024 of these and a tail");

/* The result of a system instruction (rows flagged `sys`). */
enum step {
    STEP_NEXT, /* continue with the next instruction */
    STEP_JUMP, /* cpu->pc is the next instruction: translation or PSTATE may have changed */
    STEP_FAULT, /* an exception was raised: cpu->exc */
    STEP_EXIT, /* leave pe_run(): cpu->exit is filled, cpu->pc is the address at which to resume */
};

static inline uint32_t bits(uint32_t w, unsigned lsb, unsigned width) {
    return (w >> lsb) & ((width == 32) ? ~0u : (1u << width) - 1);
}

static inline uint64_t ones(unsigned width) {
    return width >= 64 ? ~0ull : (1ull << width) - 1;
}

static inline int64_t sign_extend(uint64_t value, unsigned width) {
    return (int64_t)(value << (64 - width)) >> (64 - width);
}

/* Index into cpu->x of a register number in which 31 means the zero register: to read, to write. */
static inline unsigned xr(unsigned n) {
    return n == 31 ? X_ZERO : n;
}
static inline unsigned xw(unsigned n) {
    return n == 31 ? X_SINK : n;
}

#endif
