/*
 * Exceptions, system registers and system instructions, as the interpreter sees them.
 *
 * An `encoding` is op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2; `rt` is the number in the instruction, for the syndrome.
 * cpu->pc is the instruction's own address at every call.
 */
#ifndef PYVMM_CORE_SYSREG_H
#define PYVMM_CORE_SYSREG_H

#include "pstate.h"
#include "mmu.h"

#define ENCODE(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))

#define MDSCR_SS (1ull << 0)
#define MDSCR_KDE (1ull << 13)
#define MDSCR_MDE (1ull << 15)

#define HCR_TIDCP (1ull << 20)

/* Encodings that are left to implementations, for registers and instructions; this one has none. */
static inline bool is_implementation_defined(uint32_t encoding) {
    unsigned op0 = encoding >> 14, crn = encoding >> 7 & 15;
    return op0 & 1 && (crn == 11 || crn == 15);
}

/* sysreg.c */
enum step sysreg_read(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t *value);
enum step sysreg_write(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t value);
enum step sysreg_msr_imm(struct cpu *cpu, unsigned op1, unsigned op2, unsigned imm);
/* What the register holds after the value was written: RES1 bits are set, those that are not implemented clear. */
uint64_t sysreg_written(const struct cpu *cpu, uint32_t encoding, uint64_t value);
/* At this EL, is it plain 64-bit storage at *offset in struct cpu that nothing can ever trap? */
bool sysreg_plain(uint32_t encoding, bool write, unsigned el, size_t *offset);
uint32_t sysreg_iss(uint32_t encoding, unsigned rt, bool read); /* of EC 0x18 */

/* sysinsn.c */
enum step sys_insn(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t value);
enum step sysl_insn(struct cpu *cpu, uint32_t encoding, unsigned rt);
bool sys_zva_allowed(const struct cpu *cpu); /* DC ZVA neither traps nor is prohibited at this EL */
/* at.c: address translation instruction `op` = CRm[0]<<3 | op2 */
enum step at_insn(struct cpu *cpu, unsigned op, uint64_t va);

/* exception.c; a `raise` always returns false */
bool raise_pc_alignment(struct cpu *cpu);
bool raise_illegal_state(struct cpu *cpu);
bool raise_branch_target(struct cpu *cpu);
enum step exception_svc(struct cpu *cpu, uint32_t imm16);
enum step exception_hvc(struct cpu *cpu, uint32_t imm16);
enum step exception_smc(struct cpu *cpu, uint32_t imm16);
enum step exception_brk(struct cpu *cpu, uint32_t imm16);
enum step exception_return(struct cpu *cpu, uint64_t target);
uint64_t branch_address(const struct cpu *cpu, uint64_t target); /* AArch64.BranchAddr at the current EL */

/* timer.c */
enum { COUNTER_FREQUENCY = 62500000 };
enum timer { TIMER_VIRTUAL, TIMER_PHYSICAL };
uint64_t timer_count(const struct cpu *cpu, enum timer timer);
/* Before the first instruction of a run: the caller knows the outputs as the context holds them */
void timer_enter(struct cpu *cpu);

/* gic_cpuif.c */
enum { PENDING_IRQ = 1, PENDING_FIQ = 2, PENDING_SERROR = 4 };
unsigned irq_pending(const struct cpu *cpu); /* virtual interrupts that only PSTATE may mask; any of them ends WFI */
void irq_mask_changed(struct cpu *cpu);      /* the part of irq_update() that a change of PSTATE.DAIF needs */
uint64_t gic_read_IAR(struct cpu *cpu, unsigned group);
uint64_t gic_read_HPPIR(struct cpu *cpu, unsigned group);
uint64_t gic_read_BPR(struct cpu *cpu, unsigned group);
uint64_t gic_read_RPR(struct cpu *cpu);
uint64_t gic_read_CTLR(struct cpu *cpu);
void gic_write_EOIR(struct cpu *cpu, unsigned group, uint64_t value);
void gic_write_BPR(struct cpu *cpu, unsigned group, uint64_t value);
void gic_write_DIR(struct cpu *cpu, uint64_t value);
void gic_write_CTLR(struct cpu *cpu, uint64_t value);
void gic_reset(struct pe_state *state);
uint64_t gic_vmcr(uint64_t value); /* ICH_VMCR_EL2 after a write of the value */
void gic_write_vmcr(struct cpu *cpu, unsigned lsb, unsigned width, uint64_t value);
/* fields of ICH_VMCR_EL2 */
enum { VMCR_ENG0 = 0, VMCR_ENG1 = 1, VMCR_FIQEN = 3, VMCR_CBPR = 4, VMCR_EOIM = 9 };
enum { VMCR_BPR1 = 18, VMCR_BPR0 = 21, VMCR_PMR = 24 };

#endif
