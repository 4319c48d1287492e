/*
 * The translator's data.
 *
 * A region is a set of instructions of one decoded page, entered at its head, whose slot has OP_JIT.  It contains no
 * VA, EL, ASID or VMID: like the interpreter, it uses cpu->page_va, the current TLB and the current fetch TLB.  It
 * jumps to another region of its page directly or through the page's entry[], and to other pages through the fetch
 * TLB; so it is dropped with its page, and nothing must be unlinked.
 */
#ifndef PYVMM_CORE_TRANSLATION_H
#define PYVMM_CORE_TRANSLATION_H

#include "code.h"

#include "gen/ops.h"

enum { COUNT_ONE = 16 }; /* an instruction, as cpu->limit counts */

struct emit;

/* ---- the rows (interp.c) ---- */

enum op_kind { KIND_NONE, KIND_PLAIN, KIND_FAULTS, KIND_BRANCH, KIND_INDIRECT, KIND_SYS, KIND_FP = 8 };
struct op_info {
    uint8_t kind; /* enum op_kind, KIND_FP or-ed */
    union {
        bool (*act)(struct cpu *cpu, const struct insn *i); /* false: an exception was raised */
        enum step (*system)(struct cpu *cpu, const struct insn *i);
        const struct insn *(*branch)(struct cpu *cpu, const struct insn *i);
    };
};
extern const struct op_info op_infos[NUM_OPS];
extern void (*const emitters[NUM_OPS])(struct emit *e, const struct insn *i); /* NULL: the handler executes it */
extern const struct insn refetch_insn;

/* ---- what is translated ---- */

/* How the interpreter continues when translated code returns: with `insn`, */
enum jit_status {
    JIT_GO,      /* whatever is in its slot; */
    JIT_POLL,    /* after a poll; */
    JIT_FAULT,   /* which has raised an exception; */
    JIT_EXECUTE, /* with its handler, not with OP_JIT; */
    JIT_SYSTEM,  /* whose handler returned cpu->jit_step. */
    NUM_JIT_STATUS,
    JIT_DIFFERS = NUM_JIT_STATUS /* check.c: not at all */
};
struct jit_exit {
    const struct insn *insn;
    uint64_t status;
};

enum { NUM_SIZES = 7 }; /* of accesses: 1 to 64 bytes */

/* Fixed code at the start of an arena. */
struct host_stubs {
    struct jit_exit (*enter)(struct cpu *cpu, int64_t count, const void *code);
    const void *leave[NUM_JIT_STATUS]; /* T2 = insn */
    const void *branch;                /* T0 = VA, T2 = the branch instruction, H_COUNT past it: continue at VA */
    const void *branch_c;              /* see host_act_arguments(): let the handler execute a branch */
    const void *next_page;             /* continue at the start of the next page */
    const void *check_store;           /* T0 + T1 = host address, T2 = size */
    const void *find[2][NUM_SIZES];    /* by `write`, by size: see host_find_slowly() */
};

/*
 * Where an access found its page last: the offset of the TLB entry.  One that often finds another page soon after the
 * last, as in a hash table, gains nothing from that; it `wanders`, and is translated again to look at the page's place.
 */
struct site {
    uint16_t entry;
    uint16_t misses; /* soon after the one before: up to SITE_WANDERS */
    uint32_t missed_at; /* H_COUNT */
};
enum {
    SITE_WANDERS = 0x8000,
    SITE_MISSES = 1024, /* until it wanders */
    LOG2_SOON = 12, /* 256 instructions */
};

struct jit_page {
    const void *entry[SLOTS + 1];   /* code to execute the instruction and what follows, or stubs.leave[JIT_GO] */
    uint64_t heads[SLOT_WORDS];     /* slots that are branch targets */
    uint64_t covered[SLOT_WORDS];   /* slots in some region */
    uint64_t wanders[SLOT_WORDS];   /* slots whose accesses wander */
    uint32_t drops;                 /* how often its regions were dropped */
    uint16_t op[SLOTS];             /* the own ops of slots with OP_HEAT or OP_JIT */
    uint8_t heat[SLOTS];            /* executions of an OP_HEAT */
};

struct jit {
    struct host_stubs stubs;
    uint8_t *code;       /* as it is written; it runs at code + to_run */
    ptrdiff_t to_run;
    uint8_t *first, *at; /* the start of the regions; the place of the next one */
    struct site *sites, *next_site;
    struct jit_page *pages;
    void *reserved;      /* the address range of all of this */
    uintptr_t act; /* jit_act() */
    unsigned threshold;
    struct check *check; /* NULL: translated code is trusted */
    uint64_t num_regions; /* translated so far */
    struct emit *emit;
};

/* The op of an instruction, behind OP_HEAT and OP_JIT. */
static inline uint16_t page_op(const struct code_page *page, unsigned slot) {
    uint16_t op = page->ops[slot].op;
    return unlikely(op == OP_HEAT || op == OP_JIT) ? page->jit->op[slot] : op;
}
static inline uint16_t jit_op(const struct insn *ops, unsigned slot) {
    return page_op(page_of(ops), slot);
}

/* ---- a region while it is being translated ---- */

/* The place of the guest's flags: only struct cpu, or also the host's flags, with C unchanged or as a borrow. */
enum flags { FLAGS_IN_CPU, FLAGS_CARRY, FLAGS_BORROW };

enum {
    MAX_REGION = 160, /* instructions */
    MAX_LABELS = SLOTS + 12 * MAX_REGION, /* the slots' labels come first */
    MAX_FIXUPS = 20 * MAX_REGION,
    MAX_LATER = 6 * MAX_REGION,
};

/* Code that is rarely reached; it is emitted after the region. */
struct later {
    enum { LATER_FIND, LATER_ACT, LATER_BRANCH, LATER_EXIT } kind;
    uint32_t label; /* where it begins */
    uint32_t slot;  /* FIND, ACT, BRANCH: the instruction; EXIT: where to continue */
    /* FIND: find the page of an access; ACT, BRANCH: execute the instruction with its handler */
    uint32_t found, next; /* labels at which to continue */
    struct site *site;
    bool write;
    uint8_t size;
    int32_t count; /* also of an exit */
    /* EXIT */
    enum jit_status status;
    bool may_poll;
};

/* The effects of an instruction on its successors. */
enum effect {
    SETS_FLAGS = 1,  /* all of them, */
    READS_FLAGS = 2, /* in struct cpu, */
    LEAVES = 4,      /* or may leave the region, which needs current state */
    BRANCHES = 8,    /* within the region or out of it */
};

struct emit {
    uint8_t *at;
    ptrdiff_t to_run; /* from the address of writing to the address of execution */
    uint8_t *start;
    struct cpu *cpu;
    struct jit *jit;

    struct code_page *page;
    unsigned head, slot;
    uint64_t members[SLOT_WORDS], targets[SLOT_WORDS]; /* slots of the region; its branch targets */
    unsigned num_members;
    uint16_t pending[2 * MAX_REGION];
    unsigned num_pending;

    bool is_survey, failed;
    bool counted;      /* H_COUNT counts the instruction, */
    bool ended;        /* and it never falls through */
    int32_t count;     /* instructions (COUNT_ONE each) since H_COUNT was current */
    enum flags flags;  /* where the guest's are */
    bool fp_checked, sp_checked;
    unsigned next;     /* label after the instruction, 0: none yet */
    uint8_t home[NUM_X]; /* host register of a guest register, or NO_REG */
    uint32_t uses[NUM_X];
    uint64_t written; /* guest registers that the region changes */
    uint8_t effects[SLOTS];

    uint32_t label_at[MAX_LABELS]; /* offset from `start` */
    struct fixup {
        uint32_t at, label;
    } fixups[MAX_FIXUPS];
    struct later later[MAX_LATER];
    unsigned num_labels, num_fixups, num_later;
    unsigned act; /* label of the region's routine of host_emit_act(), 0: none yet */
};

static inline unsigned new_label(struct emit *e) {
    return e->num_labels++;
}

#endif
