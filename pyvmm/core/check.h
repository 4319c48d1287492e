/*
 * Checking translated code against the interpreter, region by region.
 */
#ifndef PYVMM_CORE_CHECK_H
#define PYVMM_CORE_CHECK_H

#include "translation.h"

struct check *check_new(void); /* NULL: no memory */
/* Like jit_run(); JIT_DIFFERS if the interpreter has another result. */
struct jit_exit check_run(struct cpu *cpu, const struct insn *i, int64_t count);
/* Called by translated code before it stores. */
void check_store(struct cpu *cpu, uint8_t *host, uint64_t size);

#endif
