/*
 * A hostile program at EL2: it makes a realm with secrets (victim.c), then two PEs attack it and its firmware with random
 * SMCs, registers, invalidations, tables, and entries of its RECs.  In the end it looks for a secret in all its memory.
 * SEED and STEPS (of each PE) are given to the compiler.
 */
#include "host.h"
#include "secret.h"

uint64_t read_word(uint64_t address); // hostile.S
uint64_t write_word(uint64_t address, uint64_t value);
uint64_t execute(volatile uint32_t *code, uint64_t value);
uint64_t read_at_el1(uint64_t address);
extern uint32_t code_of[2][PAGE / 4];
extern char hostile_vectors[];

enum { NUM_FREE = 24, END_OF_RAM = 0x48000000, DELAY = 6250 };
enum { GICR_ISENABLER = GICR + 0x10100, GICR_ICACTIVER = GICR + 0x10380, PPI_HYP_PHYSICAL = 26 };
#define HCR_RW (1ull << 31)

static struct attacker {
    uint64_t state;          // of its random numbers
    uint64_t free[NUM_FREE]; // its own granules, whatever state they are in
    uint64_t entered, answered;
    volatile bool is_ready, is_done;
} attackers[2];

static unsigned this_pe(void) {
    return READ(mpidr_el1) & 1;
}

/* ---- choices ---- */

static uint64_t random(struct attacker *a) {
    a->state ^= a->state << 13;
    a->state ^= a->state >> 7;
    a->state ^= a->state << 17;
    return a->state;
}

static uint64_t below(struct attacker *a, uint64_t n) {
    return (random(a) >> 8) % n;
}

static uint64_t pick_granule(struct attacker *a) {
    unsigned rec = below(a, 2);
    switch (below(a, 9)) {
    case 0: return realm.rd;
    case 1: return realm.rec[rec];
    case 2: return realm.aux[rec][below(a, NUM_AUX)];
    case 3: return realm.page[0x130 + below(a, 8)];
    case 4: return below(a, 2) ? realm.start_table : realm.tables[rec][below(a, 2)];
    case 5: return attackers[below(a, 2)].free[below(a, NUM_FREE)];
    default: return a->free[below(a, NUM_FREE)];
    }
}

static uint64_t pick_argument(struct attacker *a) {
    switch (below(a, 8)) {
    case 0: return random(a);
    case 1: return below(a, 5);
    case 2: return RAM + below(a, 0x200) * PAGE + (below(a, 2) ? ALIAS : 0);
    case 3: return (pick_granule(a) & ~0xfffull) | (random(a) & 0xdc);
    default: return pick_granule(a);
    }
}

/* ---- what must never be seen ---- */

static void check(uint64_t value, const char *where) {
    if (value >> 32 == SECRET_TAG) {
        print("SECRET FOUND: ");
        print(where);
        put('\n');
        power_off();
    }
}

/* ---- attacks ---- */

static uint64_t pick_fid(struct attacker *a) {
    switch (below(a, 12)) {
    case 0: return random(a);
    case 1: return 0x80000000 + below(a, 0x10);
    case 2: return 0xc7000150 + below(a, 0x60);
    case 3: return 0xc4000190 + below(a, 0x40); // RSI, and what only the RMM may call
    case 4: return 0xc40001d0 + below(a, 0x50);
    default: return 0xc4000150 + below(a, 0x1a);
    }
}

// A call that would end this program, or take one of its PEs, or most of the realm.
static bool is_unwanted(struct attacker *a, uint64_t fid) {
    uint32_t id = (uint32_t)fid & ~(1u << 16);
    if ((id & 0xbfff0000) == 0x84000000 && (id & 0xffff) < 0x20) {
        return true;
    }
    bool destroys = id == (uint32_t)RMI_REC_DESTROY || id == (uint32_t)RMI_DATA_DESTROY || id == (uint32_t)RMI_RTT_DESTROY;
    return destroys && below(a, 200);
}

static void call(struct attacker *a) {
    struct registers r = {.x = {pick_fid(a)}};
    if (is_unwanted(a, r.x[0])) {
        return;
    }
    for (int n = 1; n < 18; n++) {
        r.x[n] = n < 7 ? pick_argument(a) : random(a);
    }
    smc(&r);
    for (int n = 0; n < 18; n++) {
        check(r.x[n], "a result");
    }
}

static void write_params(struct attacker *a) {
    uint64_t page = pick_granule(a);
    for (uint64_t n = below(a, 8) + 1; n; n--) {
        write_word(page + below(a, PAGE / 8) * 8, below(a, 3) ? pick_argument(a) : below(a, 40));
    }
}

// So that neither a realm nor a guest computes forever, whatever has been written to the registers.
static void set_alarm(void) {
    write32(GICD, 0x12);
    write32(GICR_ISENABLER + this_pe() * GICR_STRIDE, 1u << PPI_HYP_PHYSICAL);
    WRITE(hcr_el2, HCR_RW);
    WRITE(S3_4_C12_C9_5, 0xf);
    WRITE(S3_0_C4_C6_0, 0xff);
    WRITE(S3_0_C12_C12_7, 1);
    WRITE(S3_0_C12_C8_4, 0); // ICC_AP0R0_EL1, ICC_AP1R0_EL1: no interrupt is active
    WRITE(S3_0_C12_C9_0, 0);
    write32(GICR_ICACTIVER + this_pe() * GICR_STRIDE, ~0u);
    WRITE(cnthp_cval_el2, READ(cntpct_el0) + DELAY);
    WRITE(cnthp_ctl_el2, 1);
}

static void enter_rec(struct attacker *a) {
    unsigned pe = this_pe(), rec = below(a, 4) ? pe : !pe;
    struct rec_run *run = realm.run[pe];
    struct registers r = {.x = {RMI_REC_ENTER, realm.rec[rec], (uint64_t)run}};
    write_word((uint64_t)run, below(a, 8) ? 0 : below(a, 32));
    write_word((uint64_t)&run->enter.gprs[below(a, 31)], random(a));
    write_word((uint64_t)&run->enter.gicv3_lrs[below(a, 4)], below(a, 4) ? 0 : random(a));
    set_alarm();
    if (smc(&r) != SUCCESS) {
        return;
    }
    a->entered++;
    for (unsigned n = 0; n < sizeof run->exit / 8; n++) {
        check(read_word((uint64_t)&run->exit + n * 8), "an exit");
    }
    uint64_t reason = read_word((uint64_t)&run->exit.reason);
    a->answered += reason == EXIT_HOST_CALL;
    if (reason == EXIT_HOST_CALL && read_word((uint64_t)&run->exit.imm) == 3) {
        print("THE REALM HAS CHANGED\n");
        power_off();
    }
}

static uint64_t run_instruction(uint32_t word, uint64_t value) {
    volatile uint32_t *code = code_of[this_pe()];
    code[0] = word;
    code[1] = 0xd65f03c0; // RET
    __asm__ volatile("dc cvau, %0\n\tdsb ish\n\tic ivau, %0\n\tdsb ish\n\tisb" ::"r"(code) : "memory");
    return execute(code, value);
}

// SCTLR, VBAR and DAIF stay: this program needs them.
static bool is_needed(unsigned op1, unsigned crn, unsigned crm, unsigned op2) {
    bool is_level = op1 == 0 || op1 == 4 || op1 == 5;
    return (is_level && (crn == 1 || crn == 12) && crm == 0 && op2 == 0) || (op1 == 3 && crn == 4 && crm == 2) ||
           (op1 == 0 && crn == 4 && crm == 2 && op2 == 0);
}

static void use_register(struct attacker *a) {
    static const uint8_t levels[] = {0, 3, 4, 4, 4, 5, 1, 6};
    unsigned op1 = levels[below(a, 8)], crn = below(a, 16), crm = below(a, 16), op2 = below(a, 8), is_read = below(a, 4) == 0;
    if (!is_needed(op1, crn, crm, op2)) {
        uint32_t o0 = below(a, 8) != 0;
        uint32_t word = 0xd5100000 | is_read << 21 | o0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5;
        check(run_instruction(word, below(a, 3) ? random(a) : pick_argument(a)), "a register");
    }
}

// TLBI and AT.
static void use_instruction(struct attacker *a) {
    bool is_at = below(a, 4) == 0;
    uint32_t crn = is_at ? 7 : 8, crm = is_at ? 8 + below(a, 2) : below(a, 16);
    uint32_t word = 0xd5080000 | (uint32_t)(below(a, 2) * 4) << 16 | crn << 12 | crm << 8 | (uint32_t)below(a, 8) << 5;
    run_instruction(word, below(a, 2) ? random(a) : pick_argument(a));
    check(READ(par_el1), "PAR_EL1");
}

// A guest of ours whose stage 2 maps all DRAM one to one, has random descriptors, or is a granule of the realm.
static void read_below(struct attacker *a) {
    uint64_t table = a->free[0], what = below(a, 4);
    for (uint64_t n = 0; n < 8; n++) {
        write_word(table + n * 8, what ? n << 30 | 0x7fd : random(a));
    }
    if (what == 1) {
        write_word(table + 8, pick_granule(a) | 3);
    }
    set_alarm();
    WRITE(S3_4_C2_C1_0, (what == 2 ? pick_granule(a) : table) | below(a, 3) << 48); // VTTBR_EL2
    WRITE(S3_4_C2_C1_2, 0x80023559); // VTCR_EL2: 39 bits, from level 1, granules of 4 KB
    WRITE(S3_0_C1_C0_0, 0x30d00800); // SCTLR_EL1
    WRITE(hcr_el2, HCR_RW | below(a, 2) | 1ull << 4 | 1ull << 3 | below(a, 2) << 48 | below(a, 2) << 46);
    check(read_at_el1(pick_granule(a) + below(a, 512) * 8), "a guest's load");
    WRITE(hcr_el2, HCR_RW);
}

static void attack(struct attacker *a) {
    switch (below(a, 8)) {
    case 0: enter_rec(a); break;
    case 1: use_register(a); break;
    case 2: use_instruction(a); break;
    case 3: read_below(a); break;
    case 4: write_params(a); break;
    case 5: check(read_word(pick_granule(a) + below(a, 512) * 8), "a load"); break;
    default: call(a);
    }
}

static void attack_all(struct attacker *a) {
    WRITE(vbar_el2, (uint64_t)hostile_vectors);
    a->state = SEED * 2 + this_pe() + 0x9e3779b97f4a7c15;
    for (unsigned n = 0; n < STEPS; n++) {
        attack(a);
    }
    set_alarm();
    WRITE(cnthp_ctl_el2, 0);
    a->is_done = true;
}

/* ---- the whole ---- */

static void ready(struct rec_run *run) {
    (void)run;
    attackers[this_pe()].is_ready = true;
}

static void nothing(struct rec_run *run) {
    (void)run;
}

void (*const host_calls[4])(struct rec_run *) = {nothing, ready, nothing, nothing};

void take_interrupt(void) {
}

static void prepare(struct attacker *a) {
    for (unsigned n = 0; n < NUM_FREE; n++) {
        a->free[n] = new_page();
    }
    while (!a->is_ready) {
        step_rec((int)this_pe());
    }
}

void secondary(uint64_t index) {
    prepare(&attackers[index]);
    while (!attackers[0].is_ready) {
    }
    attack_all(&attackers[index]);
}

static void look_for_secrets(void) {
    for (uint64_t page = 0x40000000; page < END_OF_RAM; page += PAGE) {
        for (unsigned n = 0; n < PAGE / 8 && (n || read_word(page) || read_word(page + 8)); n++) {
            check(read_word(page + n * 8), "memory");
        }
    }
}

void main(void) {
    make_realm();
    prepare(&attackers[0]);
    while (!attackers[1].is_ready) {
    }
    print("attack\n");
    attack_all(&attackers[0]);
    while (!attackers[1].is_done) {
    }
    show("entered", attackers[0].entered + attackers[1].entered);
    show("answered", attackers[0].answered + attackers[1].answered);
    look_for_secrets();
    print("no secret found\n");
}
