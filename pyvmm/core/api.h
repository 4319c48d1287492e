/*
 * The whole interface of the core: one declaration for C and for Python.
 *
 * The text between the two markers is passed to cffi's cdef(), so it contains no preprocessor line, no attribute and
 * no inline function; every bound is a literal.  Sizes and addresses are in bytes, registers have their architectural
 * layout.
 */
#ifndef PYVMM_CORE_API_H
#define PYVMM_CORE_API_H

#include <stdint.h>

/* cdef: begin */

/* An external debugger's settings for a context: exit with CORE_EXIT_DEBUG before an instruction, at an access, or
 * after one instruction.  Addresses are virtual.  Owned by the caller, who must not change it while pe_run() runs. */
struct pe_watchpoint {
    uint64_t addr, size;
    uint64_t access; /* bit 0: reads, bit 1: writes */
};
struct pe_debug {
    uint32_t step; /* execute one instruction, ignoring breakpoints at it and pending interrupts */
    uint32_t num_breakpoints, num_watchpoints;
    uint64_t breakpoints[256];
    struct pe_watchpoint watchpoints[16];
};

/* Architectural state of one context (a vCPU or a REC) while no PE runs it.  Owned by the caller, copied in and out
 * by pe_run(). */
struct pe_state {
    uint64_t x[31];
    uint64_t pc;
    uint64_t pstate; /* SPSR layout */
    uint64_t sp_el0, sp_el1;
    uint64_t elr_el1, spsr_el1, esr_el1, far_el1, vbar_el1, sctlr_el1, cpacr_el1;
    uint64_t ttbr0_el1, ttbr1_el1, tcr_el1, mair_el1, amair_el1, afsr0_el1, afsr1_el1;
    uint64_t contextidr_el1, tpidr_el0, tpidrro_el0, tpidr_el1, par_el1, csselr_el1, mdscr_el1, cntkctl_el1;
    uint64_t cntv_ctl, cntv_cval, cntp_ctl, cntp_cval;
    uint64_t pauth_keys[10]; /* APIA, APIB, APDA, APDB, APGA, low half first */
    uint64_t fpcr, fpsr;
    uint64_t v[64]; /* V0..V31, low half first */

    /* performance monitors; pmu_overflow: 1 while their interrupt is asserted, as of the last run */
    uint64_t pmcr, pmcntenset, pmintenset, pmovsset, pmselr, pmuserenr, pmccntr, pmccfiltr;
    uint64_t pmevcntr[6], pmevtyper[6];
    uint64_t pmu_overflow;

    /* EL2's controls of this context */
    uint64_t hcr_el2, vtcr_el2, vttbr_el2, vmpidr_el2, vpidr_el2, cntvoff_el2, cnthctl_el2, mdcr_el2, cptr_el2;
    uint64_t ich_hcr, ich_vmcr, ich_misr, ich_eisr, ich_elrsr, ich_ap0r0, ich_ap1r0;
    uint64_t ich_lr[16];
    uint64_t security; /* enum pas: the security state */

    /* state that survives an exit but is not a register */
    uint64_t oslsr_el1, dbgbvr[16], dbgbcr[16], dbgwvr[16], dbgwcr[16];

    /*
     * EL2 as a property of the context.  With has_el2 = 0 the caller is EL2, and what goes to EL2 ends a run.  With 1
     * the context has EL2 itself: only an SMC that EL2 does not trap, an access outside DRAM (hpfar: its page) and a
     * software-generated interrupt end a run.  icc_*: the physical interface of the GIC in the layout of ICH_*_EL2;
     * its list registers have what the distributor forwards.  maintenance: the level of PPI 25 as of the last run.
     */
    uint64_t has_el2;
    uint64_t sctlr_el2, ttbr0_el2, ttbr1_el2, tcr_el2, mair_el2, amair_el2, afsr0_el2, afsr1_el2, esr_el2, far_el2;
    uint64_t vbar_el2, elr_el2, spsr_el2, contextidr_el2, sp_el2, tpidr_el2, hpfar_el2, hstr_el2;
    uint64_t cnthp_ctl, cnthp_cval, cnthv_ctl, cnthv_cval;
    uint64_t icc_hcr, icc_vmcr, icc_misr, icc_eisr, icc_elrsr, icc_ap0r0, icc_ap1r0;
    uint64_t icc_lr[16];
    uint64_t maintenance;

    /* the debugger, or NULL; with one, an exit does not clear the exclusive monitor (excl_size 0: not set) */
    const struct pe_debug *debug;
    uint64_t excl_va, excl_size, excl_value[2];
};

enum core_exit {
    CORE_EXIT_SYNC = 0,
    CORE_EXIT_IRQ = 1,
    CORE_EXIT_BUDGET = 2,
    CORE_EXIT_SERROR = 3,
    CORE_EXIT_DIFFERS = 5, /* far: where translated code did not do what the interpreter does */
    CORE_EXIT_DEBUG = 4, /* esr, far: as in the breakpoint, watchpoint or software step exception that it replaces */
};

/* Why pe_run() returned; irq: bit 0 kick, bit 1 timer output rose, bit 2 GIC maintenance, bit 3 (exact clock) WFI, with
 * the ticks until a timer's output rises in far, INT64_MAX if never; bit 4 PMU overflow rose. */
struct pe_exit {
    uint32_t reason;
    uint32_t irq;
    uint64_t esr, far, hpfar;
    uint64_t instructions; /* executed by this pe_run() */
};

struct machine;

/* clock: 0 real (host monotonic), 1 virtual (advances with instructions, skips idle time), 2 exact: virtual for all PEs
 * together, which run one at a time; timers and budgets end a run at their very instruction, and so does WFI.  features: Feature of
 * arch/sysregs.py.  Returns NULL and sets errno if memory is short or a thread primitive cannot be created. */
struct machine *machine_new(uint64_t dram_base, uint64_t dram_size, uint32_t num_pes, uint32_t clock,
                            uint32_t features);
void machine_free(struct machine *machine);
/* Make the PEs translate code that was executed `threshold` times, 1 to 255, and optionally check the translation
 * against the interpreter whenever it runs; call it before any PE runs.  Returns 0, or -1 and errno: ENOTSUP if the
 * host's instruction set is not supported, EINVAL for checks on several PEs. */
int machine_translate(struct machine *machine, uint32_t threshold, uint32_t checks);
/* Regions translated so far; while no PE runs. */
uint64_t machine_translated(struct machine *machine);
/* Before anything is in memory: use private memory, which fork() copies, not the files.  Returns 0, or -1 and errno. */
int machine_make_private(struct machine *machine);
int machine_memfd(struct machine *machine, uint32_t pas);
uint8_t *machine_memory(struct machine *machine, uint32_t pas);

/* Granule protection.  machine_gpc() returns 0, or the fault code and the first refused byte in *bad, unless NULL. */
void machine_set_gpt(struct machine *machine, uint64_t gptbr_pa, uint64_t gpccr);
int machine_gpc(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size, uint64_t *bad);
/* Make granules read as zero and return their memory to the host, at once or soon.  If the GPT denies the PAS
 * access to a granule, the caller must prevent changes of the GPT meanwhile.  Returns 0, or -1 and errno. */
int machine_punch(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size);

/* Copies by the host or a device; writes drop decoded code of the changed memory.  Return machine_gpc()'s result. */
int machine_read(struct machine *machine, uint32_t pas, uint64_t pa, void *data, uint64_t size, uint64_t *bad);
int machine_write(struct machine *machine, uint32_t pas, uint64_t pa, const void *data, uint64_t size, uint64_t *bad);
int machine_zero(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size, uint64_t *bad);
/* Words to be written to memory, among them registers of a context: `count` from byte `offset` of struct pe_state on become
 * `word` and those after it.  Nothing checks that they are inside. */
struct record_registers {
    uint32_t word, offset, count;
};
struct record {
    uint32_t num_words, num_registers;
    struct record_registers registers[16];
    uint64_t words[512];
};
/* Take the registers of a context into a record, and write it.  Returns machine_gpc()'s answer. */
int machine_write_record(struct machine *machine, uint32_t pas, uint64_t pa, const struct pe_state *state,
                         struct record *record);
/* Tell the PEs that [pa, pa + size) is about to be changed through a direct mapping. */
void machine_code_changed(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size);

/* Invalidations: when they return, no PE uses a translation that the tables no longer contain. */
void machine_tlbi_all(struct machine *machine);
void machine_tlbi_pa(struct machine *machine, uint64_t pa, uint64_t size);
void machine_tlbi_ipa(struct machine *machine, uint64_t vmid, uint64_t ipa, uint64_t size);
void machine_tlbi_vmid(struct machine *machine, uint64_t vmid);

uint64_t machine_counter(struct machine *machine);
/* Make the counter continue from `count`; only before any PE runs, or between two runs with the exact clock. */
void machine_set_counter(struct machine *machine, uint64_t count);
uint64_t machine_counter_frequency(struct machine *machine);
/* Value of an ID register by encoding op0<<14 | op1<<11 | crn<<7 | crm<<3 | op2; 0 for the reserved ones. */
uint64_t machine_id_register(struct machine *machine, uint32_t encoding);

void pe_reset_state(struct pe_state *state);
/* The state after pe_reset_state() of a context with EL2, which starts there. */
void pe_reset_el2(struct pe_state *state);
void pe_run(struct machine *machine, uint32_t pe, struct pe_state *state, uint64_t budget, struct pe_exit *exit);
void pe_kick(struct machine *machine, uint32_t pe);
/* Set whether the host's interrupt controller forwards this PE's GIC maintenance interrupt (PPI 25), like
 * GICR_ISENABLER0: initially it does not, and ICH_MISR_EL2 ends no run.  Only while the PE does not run. */
void pe_set_maintenance(struct machine *machine, uint32_t pe, uint32_t enabled);
/* Make a run end as by a kick when the counter reaches `count`, once; UINT64_MAX: never.  Only while the PE does not run. */
void pe_set_alarm(struct machine *machine, uint32_t pe, uint64_t count);
/* Instructions that a PE has executed in all its runs, up to a fraction of a millisecond ago; never decreases. */
uint64_t pe_instructions(struct machine *machine, uint32_t pe);

/* For tests and tools: the op of a word (an index into core_op_name()), and one address translation.
 * translate: returns 0 and *pa, *pas; or the fault status code (FSC) and the stage in *stage2.  access: 0 read,
 * 1 write, 2 fetch, 3 a debugger's, without stage-1 permission checks.  0x40 means an address size fault at level 0,
 * whose FSC is 0.  Only while the PE does not run. */
uint32_t core_decode(uint32_t word);
const char *core_op_name(uint32_t op);
uint32_t core_num_ops(void);
int pe_translate(struct machine *machine, uint32_t pe, const struct pe_state *state, uint64_t va, uint32_t access,
                 uint64_t *pa, uint32_t *pas, uint32_t *stage2);
const char *core_digest(void);

/* For observers, while the PE does not run: the entries of its TLBs, with the number of invalidations that it performs
 * before its next instruction; its decoded pages; and the slots of one of them (bits of enum slot_view, [15:8] executions
 * of a place that may become a region).  Return the number of entries. */
enum tlb_level { VIEW_DATA, VIEW_FETCHES, VIEW_SECOND, VIEW_STAGE2 };
enum tlb_flag { VIEW_READ = 1, VIEW_WRITE = 2, VIEW_EXECUTE = 4, VIEW_NOT_GLOBAL = 8 };
struct tlb_view {
    uint64_t va, pa; /* of the page; stage 2: va is an IPA */
    uint32_t level, index, pas, flags;
    uint32_t asid, shift; /* second level; log2 of the size of the stage-1 block, 0: a page */
};
enum slot_view { VIEW_DECODED = 1, VIEW_TRANSLATED = 2, VIEW_REGION = 4 };
struct code_view {
    uint64_t pa;
    uint32_t pas, decoded, translated, regions; /* instructions, instructions, regions that begin in it */
};
uint32_t pe_view_tlbs(struct machine *machine, uint32_t pe, struct tlb_view views[11264], uint32_t *pending);
uint32_t pe_view_code(struct machine *machine, uint32_t pe, struct code_view views[8192]);
void pe_view_slots(struct machine *machine, uint32_t pe, uint32_t pas, uint64_t pa, uint16_t slots[1024]);

/* Make every thread of this process, and so the ones that they start, enter a Landlock ruleset; none may gain
 * privileges by executing a program any more.  Returns 0, or -1 and errno, and then some may have entered it. */
int core_confine_threads(int ruleset);

/* cdef: end */

#endif
