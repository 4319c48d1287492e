/*
 * Decoded pages: what code.c offers to the interpreter.
 */
#ifndef PYVMM_CORE_PAGE_H
#define PYVMM_CORE_PAGE_H

#include "cpu.h"

/* The word in a slot of a decoded page, as memory holds it now. */
uint32_t code_word(const struct insn *ops, unsigned slot);
/* Decode one slot of a page; the first decode of a dropped page makes its granule a code granule again. */
void code_decode(struct cpu *cpu, struct insn *ops, unsigned slot);

#endif
