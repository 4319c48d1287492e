/*
 * Decoding the words of a page.
 */
#ifndef PYVMM_CORE_DECODE_H
#define PYVMM_CORE_DECODE_H

#include "cpu.h"

/* Decode one slot; the first decode of a dropped page makes its granule a code granule again. */
void decode_slot(struct cpu *cpu, struct insn *ops, unsigned slot);
/* Decode a slot with OP_DEBUG again, and keep OP_DEBUG in it.  @return the op of its word */
uint16_t decode_marked_slot(struct cpu *cpu, struct insn *ops, unsigned slot);
/* A copy of the page in which only this slot is decoded, to execute one instruction. */
struct insn *decode_step(struct cpu *cpu, const struct insn *ops, unsigned slot);

#endif
