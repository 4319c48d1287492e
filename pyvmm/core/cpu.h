/*
 * The state of one PE while it runs, and of the machine it belongs to.
 *
 * Hot state (x, flags, v, TLBs) is first; the architectural state that no fast path touches stays in `st`, the struct
 * pe_state that pe_run() copied in.  While a PE runs, cpu->x, the flags, v, fpcr/fpsr and pstate fields below are the truth
 * and the same fields of `st` are stale.
 */
#ifndef PYVMM_CORE_CPU_H
#define PYVMM_CORE_CPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api.h"
#include "gen/features.h"
#include "insn.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define INLINE inline __attribute__((always_inline)) /* where the constants of an op must reach the code */

enum pas { PAS_SECURE, PAS_NS, PAS_ROOT, PAS_REALM, NUM_PAS };

#define GRANULE_SHIFT 12
#define GRANULE_SIZE 4096ull
#define PAGE_MASK (~0xfffull)

union v128 {
    uint8_t b[16];
    uint16_t h[8];
    uint32_t s[4];
    uint64_t d[2];
    int8_t sb[16];
    int16_t sh[8];
    int32_t ss[4];
    int64_t sd[2];
    float f[4];
    double g[2];
} __attribute__((aligned(16)));

/*
 * Software TLB: stage 1 + stage 2 + GPC in one compare and one add.
 * Invariant: an entry's tag is valid only while the tables give that translation; every event that could take it away
 * (TLBI, TTBR/TCR/SCTLR/MAIR write, stage-2 or GPT change) clears the entry before it is observed as complete.
 * write_tag is set only if a store needs nothing but the store: writable, dirty, no decoded code in the granule.
 */
struct tlb_entry {
    uint64_t read_tag;  /* VA page, or TLB_NONE */
    uint64_t write_tag; /* VA page, or TLB_NONE */
    uintptr_t addend;   /* host address = VA + addend */
    uint64_t info;      /* see TLB_INFO_* */
};

#define TLB_NONE 1ull /* never a page address */
#define TLB_SIZE 1024
#define TLB_INFO_NG (1ull << 0)      /* not global: goes when the ASID changes */
#define TLB_INFO_SHIFT_SHIFT 8       /* [13:8]: log2 of the stage-1 block this came from; 0: a page */

enum mmu_index { MMU_EL0, MMU_EL1, MMU_EL1_PAN, NUM_MMU };

struct fetch_entry {
    uint64_t tag; /* VA page, or FETCH_NONE */
    struct insn *ops;
};
#define FETCH_SIZE 1024
#define FETCH_NONE (~0ull)

/* Work another thread (or this PE itself) has for the PE; looked at on taken backward branches and page changes. */
enum request {
    REQ_KICK = 1 << 0,  /* leave with IRQ_KICK */
    REQ_INVAL = 1 << 1, /* the invalidation queue is not empty */
    REQ_IRQ = 1 << 2,   /* a virtual interrupt is pending and unmasked: take it */
    REQ_LEAVE = 1 << 3, /* timer rose or GIC maintenance: leave with cpu->leave_irq */
};
enum { IRQ_KICK = 1, IRQ_TIMER = 2, IRQ_MAINTENANCE = 4 };

/* A synchronous exception being taken; raised by raise_*(), consumed by exception_take(). */
enum { TARGET_DEBUGGER = 3 };
struct exception {
    uint32_t target_el; /* 1, 2 or TARGET_DEBUGGER */
    uint32_t ec;
    uint64_t iss; /* ISS, and ISS2 << 32 */
    uint64_t far, hpfar;
    bool il16;
};

enum { INVAL_QUEUE = 64 };
enum inval_kind { INVAL_ALL, INVAL_VA, INVAL_ASID, INVAL_IPA, INVAL_PA, INVAL_CODE_ALL, INVAL_CODE_PAGE, INVAL_WRITES };
struct inval {
    enum inval_kind kind;
    uint64_t addr, size; /* VA / IPA / PA / host page address, and bytes */
};

/* pauth.c: a code that was computed before, with all that it depends on. */
#define PAUTH_MEMOS 512
struct pauth_memo {
    uint64_t value, modifier, key[2];
    uint64_t code;
};

struct code_cache;
struct walk_cache;

/* What debug.c asks of the rest; all zero while nobody debugs. */
enum { SLOT_WORDS = GRANULE_SIZE / 4 / 64, MAX_WATCHED = 32 };
struct watched {
    uint64_t start, end; /* pages, without the bits above those of a VA */
};
struct debug {
    bool armed;    /* guest code is to be entered through debug_resume() */
    bool stepping; /* the next instruction is to be executed from the step page */
    bool in_use;   /* by the context that ran last */
    uint8_t masked;        /* interrupts that a step holds back (PENDING_*) */
    uint8_t ss;            /* PSTATE.SS before the instruction that is being stepped */
    uint32_t step_iss;     /* ISS of a software step exception: what was stepped */
    const struct pe_debug *outside;
    uint32_t num_watched;
    struct watched watched[MAX_WATCHED]; /* pages that no TLB entry may speak for */
    uint64_t break_slots[SLOT_WORDS];    /* slots of a page at which some breakpoint may be */
};

struct cpu {
    uint64_t x[NUM_X];        /* x[31]: the current SP; x[32] zero; x[33] sink */
    uint64_t nf, zf;          /* N = bit 63 of nf; Z = (zf == 0) */
    uint64_t cf, vf;          /* 0 or 1 */
    struct tlb_entry *tlb;    /* tlbs[mmu index] */
    const struct fetch_entry *fetch;
    const uint64_t *guarded;  /* guarded_slots of this EL */
    struct insn *ops;         /* decoded page that runs now */
    uint64_t page_va;         /* its VA */
    uint64_t pc;              /* valid only where a comment says so */
    _Atomic uint32_t request;
    uint32_t fp_trap;         /* nonzero: an FP/SIMD instruction traps to this EL; see fp_access_update() */
    uint64_t sp_align;        /* bits of SP that must be zero when it is a base address: 15 or 0 (SCTLR_EL1.SA/SA0) */
    int64_t limit;            /* see interp.c: executed << 4 at which to poll */
    union v128 v[32];

    uint32_t fpcr, fpsr;
    /* PSTATE besides NZCV */
    bool unprivileged; /* within an LDTR/STTR: mmu_index() is MMU_EL0 */
    uint8_t el, spsel, pan, uao, il, ss, dit, ssbs, btype;
    uint32_t daif; /* bits 9:6 as in SPSR */
    int64_t btype_at; /* instructions executed (as `limit`) before the only one that `btype` is about; see cpu_btype() */

    /* exclusive monitor */
    uint64_t excl_va; /* ~0: none */
    uint64_t excl_value[2];
    uint32_t excl_size;

    struct machine *machine;
    uint32_t index;
    struct code_cache *code;
    struct walk_cache *walks; /* mmu.c */
    struct exception exc;
    struct pe_exit *exit;
    struct debug debug;
    bool maintenance_enabled; /* the host takes the maintenance interrupt */
    uint32_t leave_irq;
    bool timer_seen[2]; /* output level of CNTV, CNTP as the caller knows it */
    uint64_t icount;      /* instructions of this pe_run() up to the last synchronisation */
    uint64_t budget;
    uint64_t icount_base; /* instructions of earlier pe_run()s: the virtual clock */
    _Atomic uint64_t retired; /* all of them, up to the last poll: for other threads to read */
    struct pe_state st;   /* all other architectural state */

    struct tlb_entry tlbs[NUM_MMU][TLB_SIZE];
    struct fetch_entry fetches[2][FETCH_SIZE];
    struct pauth_memo pauth_memos[PAUTH_MEMOS];
    uint64_t pauth_extension[2][2]; /* by data, by half: the bits of a pointer that follow from bit 55 while it has no code */
    uint64_t guarded_slots[2][FETCH_SIZE / 64]; /* bit per slot of fetches: of a guarded page (FEAT_BTI) */

    /* cross-PE: guarded by inval_lock; seq counters let a waiter see that its request was served */
    pthread_mutex_t inval_lock;
    struct inval inval[INVAL_QUEUE];
    uint32_t num_inval;
    _Atomic uint64_t inval_posted, inval_done;
    uint64_t inval_waiting; /* bit per PE that this PE posted to since its last DSB */
    uint64_t inval_want[64];
    _Atomic uint32_t in_guest; /* 1 between entry and exit of guest code, 0 while it sleeps or is outside */
    pthread_mutex_t sleep_lock;
    pthread_cond_t sleep_cond;
};

/* What may be so of a granule: that bit n's PAS was touched since its last punch, so that it may differ from zero, and that
 * a TLB holds it (any PAS). */
enum { MARK_TOUCHED = 1, MARK_CACHED = 1 << NUM_PAS };

/* Granules in a row that were punched when no access of the PAS could pass the GPT: zero, but still the host's memory in
 * use.  Guarded by whoever changes the GPT, who is the one to punch such granules. */
struct dropped {
    uint64_t start, end;
};
enum { MAX_DROPPED = 256 * GRANULE_SIZE };

struct machine {
    uint64_t dram_base, dram_size;
    uint32_t num_pes;
    uint32_t clock;
    uint32_t features; /* enum feature */
    int memfd[NUM_PAS];
    uint8_t *memory[NUM_PAS];  /* host address of dram_base in that PAS */
    _Atomic uint64_t gptbr, gpccr; /* GPCCR.GPC = 0: no checks */
    _Atomic uint64_t *has_code[NUM_PAS]; /* a word a granule: bit per PE that holds decoded code of it */
    _Atomic uint8_t *marks;    /* a byte a granule: MARK_* */
    struct dropped dropped[NUM_PAS];
    _Atomic uint64_t virtual_time; /* virtual clock: counter ticks gained by idle jumps */
    uint64_t epoch_ns;         /* host monotonic time at which the counter read zero */
    struct cpu *pe[64];
};

/* ---- who implements what ---------------------------------------------------------------------------------------- */

/* interp.c */
void interp_run(struct cpu *cpu);

/* code.c: decoded pages */
struct insn *code_page(struct cpu *cpu, enum pas pas, uint64_t pa); /* decoded page of a granule, made if absent */
void code_written(struct cpu *cpu, const uint8_t *host, unsigned size); /* slow-path store into a granule with code */
void code_drop_page(struct cpu *cpu, const uint8_t *host_page);
void code_drop_all(struct cpu *cpu);
struct code_cache *code_cache_new(void);
void code_cache_free(struct code_cache *cache);

/* decode.c */
/* slot: index of the word in its page; features: what the machine has */
void decode_insn(struct insn *i, uint32_t word, unsigned slot, uint32_t features);

/* mmu.c: translation behind the TLB */
struct translation {
    uint64_t pa;
    enum pas pas;
    uint8_t *host;      /* host address of VA, NULL if outside DRAM */
    bool writable, dirty_ok; /* a store may go straight to memory from now on */
    bool device;        /* Device memory: unaligned accesses fault */
    bool ng, guarded;
    uint8_t block_shift; /* log2 of the stage-1 block's size; 0: a page */
};
enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };
/* How an access passes the alignment checks of SCTLR_EL1.A and of Device memory. */
enum alignment {
    ALIGNED,   /* both: every element is aligned to its size */
    ZEROING,   /* DC ZVA: the first; Device memory it cannot zero */
    UNALIGNED, /* neither */
};
/* Stage 1, stage 2 and GPC for one byte at mmu index.  @return false with cpu->exc raised. */
bool mmu_translate(struct cpu *cpu, uint64_t va, enum access access, enum mmu_index index, struct translation *t);
/* For cache maintenance by address, which asks for fewer permissions; `invalidates`: DC IVAC. */
bool mmu_translate_for_maintenance(struct cpu *cpu, uint64_t va, bool invalidates, struct translation *t);
/* Whatever the permissions say, and nothing in the tables changes; *t holds on success. */
bool mmu_translate_for_debugger(struct cpu *cpu, uint64_t va, struct translation *t);
/* Same as mmu_translate() for an access, or its part, within one page; fills the TLB entry.  @return the host address of va,
 * NULL with cpu->exc raised (also outside DRAM: synchronous external abort). */
uint8_t *mmu_fill(struct cpu *cpu, uint64_t va, enum alignment alignment, enum access access, enum mmu_index index);
/* Fetch: fills the fetch TLB; @return the decoded page of va's page, NULL with cpu->exc raised. */
struct insn *mmu_fetch(struct cpu *cpu, uint64_t va);
/* tlb_flush.c */
void mmu_flush_all(struct cpu *cpu);
void mmu_flush_va(struct cpu *cpu, uint64_t va, uint64_t size);
void mmu_flush_writes(struct cpu *cpu, const uint8_t *host_page); /* drop write tags to that host page */
void mmu_flush_data(struct cpu *cpu); /* the first-level TLBs of data accesses */

/* gpc.c */
int gpc_check(struct machine *machine, enum pas pas, uint64_t pa); /* 0, or the DFSC/IFSC-style fault code 0x28 (not on a walk) */

/* exception.c */
bool raise_undefined(struct cpu *cpu);                                      /* always returns false */
bool raise_sp_alignment(struct cpu *cpu);                                   /* always returns false */
bool raise_exception(struct cpu *cpu, unsigned target_el, unsigned ec, uint64_t iss); /* always returns false */
bool raise_abort(struct cpu *cpu, bool fetch, bool write, uint64_t va, unsigned fsc, bool stage2, uint64_t ipa, bool s1ptw);
bool raise_alignment(struct cpu *cpu, uint64_t va, bool write);             /* data alignment fault, always returns false */
/* Take cpu->exc with cpu->pc = address of the instruction (preferred return already adjusted for SVC/HVC by the raiser via
 * cpu->pc).  To EL1: sets ESR/FAR/ELR/SPSR, PSTATE, cpu->pc = vector; returns STEP_JUMP.  To EL2: fills cpu->exit; STEP_EXIT.
 * `insn`: the word of the instruction, for the ISV syndrome of a stage-2 data abort. */
enum step exception_take(struct cpu *cpu, uint32_t insn);
enum step exception_irq(struct cpu *cpu); /* take the pending virtual IRQ/FIQ/SError to EL1, cpu->pc = interrupted instruction */

/* pauth.c: pointer authentication.  A function that can raise returns false with cpu->exc raised. */
void pauth_init(struct cpu *cpu);
void pauth_update(struct cpu *cpu); /* TCR_EL1 has changed */
enum pauth_key { KEY_IA, KEY_IB, KEY_DA, KEY_DB, KEY_GA }; /* bit 0: B, bit 1: of data */
bool pauth_add(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier);
bool pauth_check(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier); /* and strip */
uint64_t pauth_strip(const struct cpu *cpu, uint64_t pointer, bool data);
bool pauth_generic(struct cpu *cpu, uint64_t value, uint64_t modifier, uint64_t *code);

/* debug.c */
void debug_update(struct cpu *cpu); /* after a change of what is to be stopped at, or of the context */
/* Is there a breakpoint at the instruction?  Then it is raised. */
bool debug_break(struct cpu *cpu, uint64_t va);
/* May a watchpoint be in the page?  And is there one in the access?  Then it is raised. */
bool debug_watches_page(const struct cpu *cpu, uint64_t va);
bool debug_watch(struct cpu *cpu, uint64_t va, unsigned size, bool read, bool write, enum mmu_index index);
/* Before guest code goes on at cpu->pc, `executed` instructions into this pe_run().  STEP_NEXT: it may. */
enum step debug_resume(struct cpu *cpu, uint64_t executed);
/* Software step: may PSTATE.SS be set, as this SPSR has it? */
bool debug_may_step(const struct cpu *cpu, uint64_t spsr);
void debug_step(struct cpu *cpu, uint32_t insn); /* `insn` is executed now; */
void debug_not_stepped(struct cpu *cpu);         /* no, it raised an exception and did nothing */

/* sysreg.c, timer.c, gic_cpuif.c */
uint64_t timer_counter(struct machine *machine, const struct cpu *cpu); /* CNTPCT */
int64_t timer_poll(struct cpu *cpu); /* update ISTATUS and REQ_LEAVE; @return ns (real) or ticks (virtual) until the next output edge, INT64_MAX if none */
void irq_update(struct cpu *cpu);    /* recompute REQ_IRQ and the maintenance interrupt from list registers, HCR and PSTATE */

/* inval.c */
void cpu_serve_invalidations(struct cpu *cpu);
void cpu_post_inval(struct cpu *from, struct inval what, bool others_only); /* does not wait: DSB does */
void machine_post_inval(struct machine *machine, struct inval what);        /* to every PE, and wait */
void cpu_wait_invalidations(struct cpu *cpu); /* DSB: until all that this PE posted is served */
void cpu_enter_guest(struct cpu *cpu);
void cpu_leave_guest(struct cpu *cpu);

/* wait.c */
void cpu_sleep(struct cpu *cpu); /* WFI: until an interrupt, a request or the timer */
void cpu_wake(struct cpu *cpu);  /* after a request from another thread */

static INLINE void cpu_request(struct cpu *cpu, uint32_t what) {
    atomic_fetch_or_explicit(&cpu->request, what, memory_order_seq_cst);
}

static INLINE bool is_guarded(const struct cpu *cpu, uint64_t va) { /* va's page: in the fetch TLB, or the one that runs */
    unsigned slot = (va >> GRANULE_SHIFT) & (FETCH_SIZE - 1);
    return cpu->guarded[slot / 64] >> slot % 64 & 1;
}

#endif
