/*
 * Translating a region, and the functions for the emitters beside the handlers (`emit_<ROW>` beside `exec_<ROW>`).
 *
 * A region is emitted twice: first to count which guest registers it uses and where its flags are needed (the survey),
 * then with the most used registers in host registers.  An emitter asks for a guest register by its number and need
 * not know where it is:
 *
 *     unsigned rd = guest_to(e, i->rd);
 *     host_add(e, sf, rd, guest_in(e, i->rn, T0), guest(e, i->rm));
 *     guest_done(e, i->rd, rd);
 */
#ifndef PYVMM_CORE_EMIT_H
#define PYVMM_CORE_EMIT_H

#include "host.h"
#include "translation.h"

/* Translate the region of a head: @return its code, NULL if there is nothing to translate. */
const void *emit_region(struct emit *e, struct code_page *page, unsigned head);

/* ---- guest registers ---- */

struct val guest(struct emit *e, unsigned n);                      /* its value, in any place */
unsigned guest_in(struct emit *e, unsigned n,
                  enum host_reg temp); /* its value in a host register: the assigned one, or `temp` */
unsigned guest_to(struct emit *e, unsigned n); /* where to compute its new value: the assigned one, or T0 */
void guest_done(struct emit *e, unsigned n, unsigned reg); /* the new value is in `reg` */

/* The offset of a half of a vector register in struct cpu. */
static inline size_t v_half(unsigned v, unsigned half) {
    return offsetof(struct cpu, v) + sizeof(union v128) * v + sizeof(uint64_t) * half;
}

/* ---- flags ---- */

/* Are the flags that this instruction sets set again before anything can see them? */
bool flags_are_dead(const struct emit *e);
/* The last host_alu() computed the guest's flags, of which `result` (in a host register) is the result. */
void guest_flags(struct emit *e, enum flags flags, bool sf, unsigned result);
enum cond guest_condition(struct emit *e, unsigned cond);
void guest_carry(struct emit *e, enum flags flags); /* see host_carry() */

/* ---- addresses, memory and branches ---- */

void guest_pc(struct emit *e, unsigned dst, uint64_t offset); /* dst = VA of the page, and an offset */

/* Leave the instruction to its handler: to one that reads and writes only these guest registers (bits by number) and
 * accesses no memory; to any one, at once; or at a jump to the label. */
void call_handler(struct emit *e, uint64_t reads, uint64_t writes);
void act_by_handler(struct emit *e);
unsigned by_handler(struct emit *e);

/* For the base address of an access: SP must be aligned. */
void check_base(struct emit *e, unsigned rn);
/* Find the page of an access at T0 to adjacent elements: then the data is at base T0, index T1. */
void find_page(struct emit *e, bool write, unsigned size, unsigned element);

/* Branch to an instruction of the page, `distance` bytes of struct insn away; */
void emit_jump(struct emit *e, enum cond cond, uint64_t distance);
void emit_far_jump(struct emit *e); /* or to the VA in T0: */
void emit_indirect_jump(struct emit *e, unsigned btype); /* BR and BLR */
/* Leave the branch to its handler at a jump to the label; or if the page of the VA in T0 is guarded (FEAT_BTI). */
unsigned branch_by_handler_at(struct emit *e);
void unless_guarded(struct emit *e);
void skip_unless(struct emit *e, enum cond cond); /* Fall through to the next instruction unless... */

#endif
