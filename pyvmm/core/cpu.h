/*
 * The state of one PE while it runs, and of its machine.
 *
 * Hot state (x, flags, v, TLBs) comes first; architectural state that no fast path uses stays in `st`, the struct
 * pe_state that pe_run() copied in.  While a PE runs, cpu->x, the flags, v, fpcr/fpsr and the pstate fields below are
 * valid, and the same fields of `st` are stale.
 */
#ifndef PYVMM_CORE_CPU_H
#define PYVMM_CORE_CPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api.h"
#include "gen/arch.h"
#include "gen/features.h"
#include "insn.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define INLINE inline __attribute__((always_inline)) /* for code that needs an op's constants as constants */

/* The value of a field that gen/arch.h declares, and a value at the field's position. */
#define FIELD(reg, name) (((reg) & name) >> name##_SHIFT)
#define AS_FIELD(value, name) ((uint64_t)(value) << name##_SHIFT)

#define GRANULE_SIZE (1ull << GRANULE_SHIFT)
#define PAGE_MASK (~(GRANULE_SIZE - 1))

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
 * Invariant: an entry's tag is valid only while the tables contain that translation; every event that could remove it
 * (TLBI, TTBR/TCR/SCTLR/MAIR write, stage-2 or GPT change) clears the entry before the event is observed as complete.
 * write_tag is set only if a store needs no further action: the page is writable, dirty and without decoded code.
 */
struct tlb_entry {
    uint64_t read_tag;  /* VA page, or TLB_NONE */
    uint64_t write_tag; /* VA page, or TLB_NONE */
    uintptr_t addend;   /* host address = VA + addend */
    uint64_t info;      /* see TLB_INFO_* */
};

/* Never a page address, and never what is left of a misaligned one: translated code keeps the bits that have to be zero. */
#define TLB_NONE 0x800ull
#define TLB_SIZE 1024
#define TLB_INFO_NG (1ull << 0)      /* not global: removed when the ASID changes */
#define TLB_INFO_SHIFT_SHIFT 8       /* [13:8]: log2 of the size of its stage-1 block; 0: a page */

enum mmu_index { MMU_EL0, MMU_EL1, MMU_EL1_PAN, NUM_MMU };
/* Each has TLBs of its own: a change between them empties nothing. */
enum regime { REGIME_EL1, REGIME_EL2, NUM_REGIMES };

struct fetch_entry {
    uint64_t tag; /* VA page, or FETCH_NONE */
    struct insn *ops;
    struct jit_page *jit; /* of `ops`: translated code goes there without a look at struct code_page */
} __attribute__((aligned(32)));
#define FETCH_SIZE 1024
#define FETCH_NONE (~0ull)

/* Requests by another thread (or this PE itself); checked at taken backward branches and page changes. */
enum request {
    REQ_KICK = 1 << 0,  /* leave with IRQ_KICK */
    REQ_INVAL = 1 << 1, /* the invalidation queue is not empty */
    REQ_IRQ = 1 << 2,   /* a virtual interrupt is pending and unmasked: take it */
    REQ_LEAVE = 1 << 3, /* the output of a timer or the PMU rose, or GIC maintenance: leave with cpu->leave_irq */
};
enum { IRQ_KICK = 1, IRQ_TIMER = 2, IRQ_MAINTENANCE = 4, IRQ_IDLE = 8, IRQ_PMU = 16 };

/* A synchronous exception being taken; raised by raise_*(), consumed by exception_take(). */
enum { TARGET_DEBUGGER = 3, TARGET_OUTSIDE };
struct exception {
    uint32_t target_el; /* 1, 2, TARGET_DEBUGGER, or TARGET_OUTSIDE: what a context with EL2 cannot do alone */
    uint32_t ec;
    uint64_t iss; /* ISS, and ISS2 << 32 */
    uint64_t far, hpfar;
    bool il16;
};

enum { INVAL_QUEUE = 64 };
enum inval_kind {
    INVAL_ALL,
    INVAL_VA,
    INVAL_ASID,
    INVAL_IPA,
    INVAL_PA,
    INVAL_CODE_ALL,
    INVAL_CODE_PAGE,
    INVAL_WRITES
};
struct inval {
    enum inval_kind kind;
    uint64_t addr, size; /* VA / IPA / PA / host page address, and bytes */
    uint32_t regime;     /* of VA and ASID, and of ALL with is_one */
    bool is_one;         /* ALL: only of this regime */
};

/* pauth.c: a signed pointer computed before; and what all of them depend on besides their inputs. */
#define PAUTH_MEMO_BITS 8
#define PAUTH_MEMO_FACTOR 0x9e3779b9u /* of the hash function that finds it */
struct pauth_memo {
    uint64_t plain, modifier, key[2];
    uint64_t with_code;
};
struct pauth_config {
    uint64_t extension[2][2]; /* by data, by half: the bits of a pointer that equal bit 55 if it has no code */
    uint64_t enabled;         /* bits of SCTLR_EL1 */
    uint64_t allowed;         /* HCR_EL2.API */
};

/* EL2 of a context that has it (el2.h); all zero for the others. */
struct el2 {
    bool active;      /* the registers of EL1 in `st` are those of EL2, and the other way round: see el2.c */
    bool e2h, tge;    /* HCR_EL2 */
    bool single;      /* active, without E2H: one range of virtual addresses, and no EL0 */
    bool is_physical; /* the interface of the GIC in st.ich_* is the physical one, the virtual one is in st.icc_* */
    bool maintenance; /* the level of its interrupt that the caller knows */
    uint8_t pending;  /* PENDING_* of the physical interface while it is not in st.ich_* */
    uint64_t hcr, mdcr, cptr, cnthctl; /* the registers; `st` has what applies to the level that runs */
    uint64_t sctlr, tcr;               /* of EL2, in their own formats, while `single` */
    uint64_t cpacr, cntkctl;           /* of EL1, while `active` */
};

struct code_cache;
struct jit;
struct walk_cache;
struct tlb_set;

/* debug.c's settings for the rest of the core; all zero without debugging. */
enum { SLOT_WORDS = GRANULE_SIZE / 4 / 64, MAX_WATCHED = 32 };
struct watched {
    uint64_t start, end; /* pages, without the bits above those of a VA */
};
struct debug {
    bool armed;    /* guest code must be entered through debug_resume() */
    bool stepping; /* the next instruction must be executed from the step page */
    bool in_use;   /* set by the context that ran last */
    uint8_t masked;        /* interrupts that a step delays (PENDING_*) */
    uint8_t ss;            /* PSTATE.SS before the stepped instruction */
    uint32_t step_iss;     /* ISS of a software step exception */
    const struct pe_debug *outside;
    uint32_t num_watched;
    struct watched watched[MAX_WATCHED]; /* pages that must have no TLB entry */
    uint64_t break_slots[SLOT_WORDS];    /* slots of a page that may have a breakpoint */
};

/* What the PMU counts at this EL (pmu.c); all zero while it is off. */
struct pmu {
    bool is_on;        /* some counter may count at some EL */
    bool steps;        /* it counts each load, store or branch: only the interpreter does */
    bool excepted;     /* what is executed before the next instruction was not retired */
    bool output_seen;  /* the output level that the caller knows */
    uint32_t counters; /* bit per counter that counts at this EL */
    uint64_t events;   /* the events of these counters, bit per enum pmu_event */
    uint64_t last;     /* events of the instruction that is being executed */
    uint64_t counted;  /* the cpu->icount up to which cycles and instructions are counted */
};

struct cpu {
    uint64_t x[NUM_X];        /* x[31]: the current SP; x[32] zero; x[33] sink */
    uint64_t nf, zf;          /* N = bit 63 of nf; Z = (zf == 0) */
    uint64_t cf, vf;          /* 0 or 1 */
    struct tlb_entry *tlb;    /* tlbs[mmu index] */
    const struct fetch_entry *fetch;
    const uint64_t *guarded;  /* guarded_slots of this EL */
    struct insn *ops;         /* the decoded page being executed */
    uint64_t page_va;         /* its VA */
    uint64_t pc;              /* valid only as documented at each use */
    _Atomic uint32_t request;
    uint32_t fp_trap;         /* nonzero: an FP/SIMD instruction traps to this EL; see fp_access_update() */
    uint64_t sp_align; /* bits of SP that must be zero in a base address: 15 or 0 (SCTLR_EL1.SA/SA0) */
    _Atomic int64_t limit; /* executed << 4 at the next poll: poll_at, or POLL_NOW */
    int64_t poll_at; /* see interp.c */
    bool is_near; /* exact clock: a stop is near, so each instruction is executed alone */
    union v128 v[32];

    uint32_t fpcr, fpsr;
    /* PSTATE without NZCV */
    bool unprivileged; /* within an LDTR/STTR: mmu_index() is MMU_EL0 */
    uint8_t el; /* 0, or 1 at EL1 and at EL2 (el2.active) */
    uint8_t plain_el; /* the level whose plain registers are those in their rows: 2 with E2H, 0 at EL2 without it */
    uint8_t spsel, pan, uao, il, ss, dit, ssbs, btype;
    uint32_t daif; /* bits 9:6 as in SPSR */
    int64_t btype_at; /* the number of instructions (as `limit`) before the one of `btype`; see cpu_btype() */

    /* exclusive monitor */
    uint64_t excl_va; /* ~0: none */
    uint64_t excl_value[2];
    uint64_t excl_size;

    struct machine *machine;
    uint32_t index;
    struct code_cache *code;
    struct jit *jit; /* NULL: the interpreter alone */
    struct walk_cache *walks; /* tlb.h; like tlbs, fetches and guarded_slots, of the regime in use */
    struct tlb_set *sets;     /* by enum regime */
    enum regime regime;
    struct el2 el2;
    struct exception exc;
    struct pe_exit *exit;
    struct debug debug;
    bool maintenance_enabled; /* the host takes the maintenance interrupt */
    uint64_t alarm; /* pe_set_alarm() */
    uint32_t leave_irq;
    struct pmu pmu;
    bool timer_seen[4]; /* by enum timer: output levels that the caller knows */
    const struct insn *jit_insn; /* for translated code and jit.c: the current instruction, */
    int64_t jit_count; /* the number of instructions executed, */
    enum step jit_step; /* the result of a system instruction, */
    bool jit_wanders; /* and whether its access begins to: see struct site */
    uint64_t icount; /* instructions of this pe_run() up to the last synchronisation */
    uint64_t budget;
    uint64_t icount_base; /* instructions of earlier pe_run()s: the virtual clock */
    _Atomic uint64_t retired; /* all instructions up to the last poll, for other threads */
    struct pe_state st; /* all other architectural state */

    struct tlb_entry (*tlbs)[TLB_SIZE];     /* by mmu index */
    struct fetch_entry (*fetches)[FETCH_SIZE]; /* by EL */
    struct pauth_memo pauth_memos[4][1 << PAUTH_MEMO_BITS]; /* by key */
    struct pauth_config pauth_config;
    uint64_t (*guarded_slots)[FETCH_SIZE / 64]; /* bit per slot of fetches: the page is guarded (FEAT_BTI) */

    /* cross-PE: guarded by inval_lock; the sequence counters show a waiter that its request was served */
    pthread_mutex_t inval_lock;
    struct inval inval[INVAL_QUEUE];
    uint32_t num_inval;
    _Atomic uint64_t inval_posted, inval_done;
    uint64_t inval_waiting; /* bit per PE that this PE posted to since its last DSB */
    uint64_t inval_want[64];
    _Atomic uint32_t in_guest; /* 1 from entry to exit of guest code, 0 while the PE sleeps or is outside */
    pthread_mutex_t sleep_lock;
    pthread_cond_t sleep_cond;
};

/* Possible states of a granule: it was accessed in bit n's PAS since its last punch, so it may differ from zero
 * there; a TLB contains it (in any PAS). */
enum { MARK_TOUCHED = 1, MARK_CACHED = 1 << NUM_PAS };

/* Contiguous granules that were punched when no access of the PAS could pass the GPT: they are zero, but still use
 * host memory.  Guarded by the lock for changes of the GPT, as only their holder punches such granules. */
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
    bool is_private; /* fork() copies the memory, and the files are not used */
    uint8_t *memory[NUM_PAS]; /* host address of dram_base in that PAS */
    _Atomic uint64_t gptbr, gpccr; /* GPCCR.GPC = 0: no checks */
    _Atomic uint64_t *has_code[NUM_PAS]; /* one word per granule: a bit for each PE with decoded code of it */
    _Atomic uint8_t *marks; /* one byte per granule: MARK_* */
    struct dropped dropped[NUM_PAS];
    _Atomic uint64_t virtual_time; /* virtual clock: counter ticks gained by idle jumps */
    uint64_t executed; /* exact clock: instructions of all earlier pe_run()s */
    uint64_t epoch_ns; /* host monotonic time at which the counter read zero */
    struct cpu *pe[64];
};

/* A request makes a poll due, so that a loop has only one thing to
 * check.  Code that changes `limit` checks `request` afterwards. */
#define POLL_NOW INT64_MIN
static INLINE void cpu_request(struct cpu *cpu, uint32_t what) {
    atomic_fetch_or_explicit(&cpu->request, what, memory_order_seq_cst);
    atomic_store_explicit(&cpu->limit, POLL_NOW, memory_order_seq_cst);
}

#endif
