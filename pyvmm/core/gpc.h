/*
 * The granule protection check.
 */
#ifndef PYVMM_CORE_GPC_H
#define PYVMM_CORE_GPC_H

#include "cpu.h"

/* @return 0, or FSC_GPF */
int gpc_check(struct machine *machine, enum pas pas, uint64_t pa);
/* Mark the granule as possibly cached, then check it. */
int gpc_admit(struct machine *machine, enum pas pas, uint64_t pa);

#endif
