/*
 * The part of the host's instruction set that the translator needs.  One file per host implements it:
 * host_x86_64.c.inc with host_x86_64_vector.c.inc, host_aarch64.c.inc with host_aarch64_vector.c.inc.
 *
 * Code is written through one mapping (`at`) and runs in another, at `at + to_run`.  Nothing here knows about guest
 * instructions beyond the layout of struct cpu; the emitters beside the handlers know nothing about the host beyond
 * this file.
 */
#ifndef PYVMM_CORE_HOST_H
#define PYVMM_CORE_HOST_H

#include <stddef.h>

#include "translation.h"

/* Host registers: temporaries, which any function below may change unless it says otherwise; fixed ones; and a pool
 * for the guest registers of a region. */
enum host_reg { T0, T1, T2, H_CPU, H_COUNT, H_POOL, NUM_HOST = H_POOL + 10, NO_REG = 0xff };

/* A value in its place: in a host register, in the 8 bytes at an offset in struct cpu, or a constant. */
struct val {
    enum { IN_REG, IN_CPU, CONSTANT } kind;
    uint8_t reg;
    uint32_t offset;
    uint64_t constant;
};

static inline struct val in_reg(unsigned reg) {
    return (struct val){.kind = IN_REG, .reg = (uint8_t)reg};
}
static inline struct val in_cpu(size_t offset) {
    return (struct val){.kind = IN_CPU, .offset = (uint32_t)offset};
}
static inline struct val constant(uint64_t value) {
    return (struct val){.kind = CONSTANT, .constant = value};
}

/* ---- data processing: dst = a op b, of 64 bits (sf) or of 32 that are zero-extended ---- */

enum alu { ALU_ADD, ALU_SUB, ALU_AND, ALU_OR, ALU_XOR };
enum shift { SHIFT_LEFT, SHIFT_RIGHT, SHIFT_SIGNED, SHIFT_ROTATE }; /* numbered as the guest's */
enum extend { EXTEND_U8, EXTEND_U16, EXTEND_U32, EXTEND_64, EXTEND_S8, EXTEND_S16, EXTEND_S32 }; /* as the guest's */

void host_move(struct emit *e, bool sf, unsigned dst, struct val a); /* changes no host flag */
/* ADD, SUB and AND set the host's flags for guest_flags().  dst NO_REG: SUB or AND only for the flags. */
void host_alu(struct emit *e, enum alu op, bool sf, unsigned dst, unsigned a, struct val b);
/* A sum that preserves the host's flags if possible; and one with b << shift, up to 3, that always does. */
void host_add(struct emit *e, bool sf, unsigned dst, unsigned a, struct val b);
void host_add_shifted(struct emit *e, unsigned dst, unsigned a, unsigned b, unsigned shift);
/* Set the host's carry to the guest's C, as a carry or a borrow.  Then dst = a + b + C, or a - b - !C; only functions
 * that preserve the host's flags may be used in between. */
void host_carry(struct emit *e, enum flags flags);
void host_add_carry(struct emit *e, bool subtract, bool sf, unsigned dst, unsigned a, struct val b);
void host_not(struct emit *e, bool sf, unsigned reg);
void host_negate(struct emit *e, bool sf, unsigned reg);
void host_shift(struct emit *e, enum shift op, bool sf, unsigned dst, unsigned a,
                struct val amount); /* taken modulo width */
void host_extract(struct emit *e, bool sf, unsigned dst, unsigned high, struct val low,
                  unsigned lsb); /* 0 < lsb < width */
void host_extend(struct emit *e, enum extend how, unsigned dst, struct val a); /* to 64 bits; changes no host flag */
void host_multiply(struct emit *e, bool sf, unsigned dst, unsigned a, struct val b);
void host_multiply_high(struct emit *e, bool is_signed, unsigned dst, unsigned a, struct val b);
void host_divide(struct emit *e, bool is_signed, bool sf, unsigned dst, unsigned a,
                 struct val b); /* as the guest divides */
void host_reverse_bytes(struct emit *e, bool sf, unsigned dst, unsigned a);
void host_leading_zeros(struct emit *e, bool sf, unsigned dst, unsigned a);
void host_store_reg(struct emit *e, size_t offset, unsigned reg); /* 8 bytes of struct cpu; changes no host flag */
void host_store_byte(struct emit *e, size_t offset, uint8_t value);

/* ---- conditions ---- */

/* Numbered like the guest's conditions, but for host flags. */
enum cond { C_EQ, C_NE, C_HS, C_LO, C_MI, C_PL, C_VS, C_VC, C_HI, C_LS, C_GE, C_LT, C_GT, C_LE, C_ALWAYS };

/* Store the guest's flags from the host's, which are preserved; `result` is the operation's. */
void host_save_flags(struct emit *e, enum flags flags, bool sf, unsigned result);
void host_set_flags(struct emit *e, enum flags flags, unsigned nzcv); /* changes T0 */
/* @return the condition of host flags that is equivalent to the guest's condition; host flags may change before it */
enum cond host_condition(struct emit *e, unsigned guest_condition);
void host_select(struct emit *e, enum cond cond, bool sf, unsigned dst, unsigned a,
                 struct val b); /* dst = cond ? a : b */
enum cond host_test_bit(struct emit *e, struct val a, unsigned bit); /* @return the condition that it is set */
/* The same for a bit of an array of `size` bits, a power of two, that the field points to: bit T0 >> shift. */
enum cond host_test_bit_string(struct emit *e, size_t field, unsigned shift, uint32_t size);

/* ---- guest memory ---- */

/* Look up the page of the address in T0 at the TLB entry where this site found it last; T1 = the addend for the
 * address.  Only naturally aligned elements in one page can be found; otherwise go to label `miss`. */
void host_find(struct emit *e, bool write, unsigned size, unsigned element, struct site *site, unsigned miss);
/* The slow path, out of line: check the page's place, remember it, and go to `found`; otherwise, or if the site
 * begins to wander (cpu->jit_wanders), continue after this. */
void host_find_slowly(struct emit *e, bool write, unsigned size, struct site *site, unsigned found);
/* Instead of both: check the page's place; T1 = the addend.  Elements in two pages go to label `miss`. */
void host_find_in_place(struct emit *e, bool write, unsigned size, unsigned miss);
/* For check.c: before a store of this size at T0 + T1. */
void host_check_store(struct emit *e, unsigned size);
void host_load(struct emit *e, enum extend how, bool sf, unsigned dst, unsigned base, unsigned index, unsigned offset);
void host_store(struct emit *e, unsigned size, unsigned src, unsigned base, unsigned index, unsigned offset);
void host_store_zeros(struct emit *e, unsigned size, unsigned base, unsigned index); /* a multiple of 16 bytes */
/* Copy between memory and a vector register of struct cpu; a load of less than 16 bytes clears the rest. */
void host_load_vector(struct emit *e, unsigned size, unsigned v, unsigned base, unsigned index, unsigned offset);
void host_store_vector(struct emit *e, unsigned size, unsigned v, unsigned base, unsigned index, unsigned offset);

/* ---- atomics of `size` bytes at T0 + T1; what was there, zero-extended, is in T2 or, of the last one, in T0 ---- */

void host_exchange(struct emit *e, unsigned size, struct val a);
void host_exchange_add(struct emit *e, unsigned size, struct val a);
void host_compare_exchange(struct emit *e, unsigned size, struct val expected, struct val desired);
/* Order earlier loads before later accesses; earlier accesses before later stores; and all of them. */
enum fence { FENCE_ACQUIRE, FENCE_RELEASE, FENCE_FULL };
void host_fence(struct emit *e, enum fence fence);

/* T0 = the pointer in T0 without its code (checks) or with one, if pauth.c has a memo of it; otherwise jump to `miss`.
 * Uses enum pauth_key. */
void host_pauth(struct emit *e, bool checks, unsigned key, struct val modifier, unsigned miss);

/* ---- vectors: in struct cpu, by number; the half that is not written is cleared ---- */

enum vector_fp { FP_V_ADD, FP_V_SUB, FP_V_MUL, FP_V_DIV, FP_V_EQUAL, FP_V_LESS, FP_V_LESS_EQUAL, FP_V_UNORDERED };
enum vector_op {
    V_ADD,
    V_SUB,
    V_AND,
    V_AND_NOT,
    V_OR,
    V_XOR,
    V_EQUAL,
    V_GREATER,
    V_MULTIPLY,
    V_MAX_U,
    V_MIN_U,
    V_MAX_S,
    V_MIN_S,
    V_ZIP_LOW,
    V_ZIP_HIGH
};

/* dst = a op b in each lane of 1 << size bytes.  @return false, and nothing is emitted, if the host has no such operation */
bool host_vector(struct emit *e, enum vector_op op, unsigned size, bool q, unsigned dst, unsigned a, unsigned b);
/* dst = a * b, or dst + a * b, of the low or high half of both, lanes of 16 bits that become 32. */
void host_vector_multiply_long(struct emit *e, bool is_signed, bool adds, bool high, unsigned dst, unsigned a,
                               unsigned b);
void host_set_vector(struct emit *e, unsigned dst, unsigned reg, bool both_halves);

/* The same in steps, on temporaries of their own, V0 to V2: load, compute, store. */
enum vector_temp { V0, V1, V2 };

void host_v_load(struct emit *e, unsigned t, unsigned v);
void host_v_store(struct emit *e, bool q, unsigned dst, unsigned t);
void host_v_store_half(struct emit *e, unsigned dst, unsigned half, unsigned t); /* the low half of t, to one half */
void host_v_move(struct emit *e, unsigned t, unsigned u);
bool host_v_has(enum vector_op op, unsigned size);
void host_v(struct emit *e, enum vector_op op, unsigned size, unsigned t, unsigned u); /* t = t op u */
void host_v_fill(struct emit *e, unsigned t, bool ones);
void host_v_replicate(struct emit *e, unsigned t, uint32_t word); /* changes T1 */
void host_v_invert(struct emit *e, unsigned t, unsigned temp);
/* Shifts of lanes of 2 bytes or more; a signed one of 4 at most; of 128 bits by bytes. */
void host_v_shift(struct emit *e, enum shift op, unsigned size, unsigned t, unsigned amount);
void host_v_shift_bytes(struct emit *e, bool left, unsigned t, unsigned bytes);
void host_v_pick(struct emit *e, unsigned t, unsigned u, unsigned selector); /* words of u: 2 bits of selector each */
/* Lanes of 1 << size bytes, from all of t and then u, of twice the size: saturated if they do not fit. */
void host_v_pack(struct emit *e, unsigned size, unsigned t, unsigned u);
bool host_v_can_look_up(void);
void host_v_look_up(struct emit *e, unsigned t,
                    unsigned index); /* t = its bytes at the indexes, 0 for those with bit 7 */

/* ---- floating point in lanes: single (sz 0) or double precision ---- */

enum { FUSE_NEGATES_ADDEND = 1, FUSE_NEGATES_PRODUCT = 2 };

bool host_can_fuse(void);
void host_v_fp(struct emit *e, enum vector_fp op, unsigned sz, unsigned t, unsigned u); /* t = t op u */
/* t += u * w, rounded once, in all lanes or, if it is scalar, in the lowest; `negates` is FUSE_*. */
void host_v_fuse(struct emit *e, unsigned negates, bool is_scalar, unsigned sz, unsigned t, unsigned u, unsigned w);
void host_v_to_integers(struct emit *e, unsigned t); /* singles to words, signed, toward zero; */
void host_v_from_integers(struct emit *e, unsigned t); /* and back */
/* Jump to the label unless all lanes of V0 are finite and, if asked for, greater in magnitude than any number of the
 * lowest exponent (of doubles, a few more).  Changes V1 and V2. */
void host_v_unless_finite(struct emit *e, unsigned sz, bool q, bool is_normal, unsigned label);
void host_v_if_any(struct emit *e, unsigned t, unsigned label); /* jump if the sign of any word of t is set */

/* ---- scalar floating point: sz 0 single, 1 double; the value is in a register of its own, F ---- */

enum scalar_op { SCALAR_ADD, SCALAR_SUB, SCALAR_MUL, SCALAR_DIV, SCALAR_SQRT };

void host_scalar(struct emit *e, enum scalar_op op, unsigned sz, unsigned a,
                 unsigned b); /* F = v[a] op v[b], or the root of v[b] */
/* F = v[addend] + v[a] * v[b], rounded once: see host_v_fuse() */
void host_scalar_fuse(struct emit *e, unsigned negates, unsigned sz, unsigned addend, unsigned a, unsigned b);
void host_scalar_convert(struct emit *e, unsigned sz, unsigned a); /* F = v[a], of the other precision, as one of sz */
void host_scalar_from_integer(struct emit *e, bool sf, unsigned sz, struct val a); /* F = a, signed */
void host_scalar_to_integer(struct emit *e, bool sf, unsigned sz, unsigned a); /* T0 = v[a], toward zero, signed */
void host_scalar_store(struct emit *e, unsigned dst); /* v[dst] = F */
/* Jump to the label unless F is finite and, if asked for, greater in magnitude than any number of the lowest exponent. */
void host_scalar_unless_finite(struct emit *e, unsigned sz, bool is_normal, unsigned label);
/* Host flags = those of the guest that compares v[a] with v[b], or zero, as a borrow; jump to the label if they are
 * unordered. */
void host_scalar_compare(struct emit *e, unsigned sz, unsigned a, unsigned b, bool with_zero, unsigned unordered);
/* Jump to the label unless these bits of two adjacent fields, 8 bytes at an offset, have the value. */
void host_unless_bits(struct emit *e, size_t offset, uint64_t mask, uint64_t value, unsigned label);

/* ---- control ---- */

void host_bind(struct emit *e, unsigned label);
void host_jump(struct emit *e, enum cond cond, unsigned label);
void host_call(struct emit *e, unsigned label);
void host_resolve(struct emit *e); /* all labels are bound: complete the jumps to them */
void host_finish(struct emit *e); /* the code from e->start on is complete and will run */
void host_jump_to(struct emit *e, const void *code); /* to finished code */
void host_jump_through(struct emit *e, const void *cell);
void host_count(struct emit *e, int32_t count); /* add to H_COUNT; changes no host flag */
/* Compare for the host_jump() that follows: H_COUNT with cpu->limit; a field of 32 bits with a constant; and with a
 * field of 64 bits, C_EQ: they have no bit in common. */
void host_compare_limit(struct emit *e);
void host_compare_field(struct emit *e, size_t offset, uint32_t value);
void host_compare_byte(struct emit *e, size_t offset, uint8_t value);
void host_test_field(struct emit *e, unsigned reg, size_t offset);

/* ---- calls of C ---- */

/* Call a handler.  It may change the temporaries and the pool's registers that calls do not preserve.  Afterwards,
 * until T0 changes, host_test_answer() compares its result: C_EQ means false. */
bool host_call_keeps(unsigned reg);
void host_call_handler(struct emit *e, bool (*handler)(struct cpu *cpu, const struct insn *i), const struct insn *i);
void host_test_answer(struct emit *e);

/* Let the act of struct host_calls execute an instruction: its arguments, then a jump to the branch_c stub or a call
 * of the region's routine: host_call_act(), with the guest registers stored before and loaded after it. */
void host_act_arguments(struct emit *e, unsigned slot, int32_t count);
void host_call_act(struct emit *e, unsigned leaves); /* to that label if the region has to be left: */
void host_leave_act(struct emit *e);
void host_return(struct emit *e);

/* The functions that code calls, and where it exits to if a page is not in the fetch TLB. */
struct host_calls {
    const void *(*act)(struct cpu *cpu, unsigned slot, int64_t count);
    const void *(*branch)(struct cpu *cpu, unsigned slot, int64_t count);
    void (*check_store)(struct cpu *cpu, uint8_t *host, uint64_t size);
    const struct insn *refetch;
};
bool host_is_supported(void);
void host_emit_stubs(struct emit *e, const struct host_calls *calls); /* once per arena */

#endif
