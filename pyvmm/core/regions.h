/*
 * The regions of a decoded page.
 */
#ifndef PYVMM_CORE_REGIONS_H
#define PYVMM_CORE_REGIONS_H

#include "translation.h"

/* Is it a branch within its page?  If so, *target is the slot. */
bool branch_target(unsigned op, const struct insn *i, unsigned slot, unsigned *target);
/* A slot was decoded; a region may begin there; reset the page; some slots have changed; drop the page's regions. */
void regions_decoded(struct code_page *page, unsigned slot);
void regions_add_head(struct code_page *page, unsigned slot);
void regions_reset(struct cpu *cpu, struct code_page *page);
void regions_changed(struct cpu *cpu, struct code_page *page, unsigned first, unsigned last);
/* The access of this slot begins to wander (translation.h): its regions are translated again. */
void regions_wander(struct cpu *cpu, struct code_page *page, unsigned slot);
void regions_drop(struct cpu *cpu, struct code_page *page);

#endif
