/*
 * From an A64 word to a decoded instruction.
 */
#ifndef PYVMM_CORE_DECODE_H
#define PYVMM_CORE_DECODE_H

#include "insn.h"

/* slot: index of the word in its page; features: what the machine has */
void decode_insn(struct insn *i, uint32_t word, unsigned slot, uint32_t features);

#endif
