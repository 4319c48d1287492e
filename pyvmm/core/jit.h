/*
 * The translator's interface for the interpreter.
 */
#ifndef PYVMM_CORE_JIT_H
#define PYVMM_CORE_JIT_H

#include "translation.h"

/* checks: compare with the interpreter whenever translated code runs.  NULL: errno. */
struct jit *jit_new(struct cpu *cpu, unsigned threshold, bool checks);
void jit_free(struct jit *jit);

/* Execute an OP_HEAT; @return whether its slot has OP_JIT now. */
bool jit_heat(struct cpu *cpu, const struct insn *i);
/* Execute an OP_JIT; cpu->jit_count is the new count. */
struct jit_exit jit_run(struct cpu *cpu, const struct insn *i, int64_t count);

/* Called by translated code.  Execute an instruction with its handler: @return NULL to continue, or where to go. */
const void *jit_act(struct cpu *cpu, unsigned slot, int64_t count);
const void *jit_branch(struct cpu *cpu, unsigned slot, int64_t count);

#endif
