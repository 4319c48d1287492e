/*
 * A minimal host makes a realm through RMI 1.0 as a hypervisor does, runs its RECs, and takes it apart.
 *
 * The realm's RAM is 2 MiB at IPA 0x80000000, its address space twice 4 GiB; the upper half is shared with the host.
 * Whatever the host keeps about the realm is in `realm`.  Memory comes from the end of the image on, page by page.
 */
#include "host.h"

extern const char realm_image[], realm_image_end[]; // the program of the realm, in whole pages

struct realm realm;

/* ---- calls ---- */

uint64_t run_rmi(uint64_t fid, uint64_t x1, uint64_t x2, uint64_t x3, uint64_t x4, uint64_t x5) {
    struct registers r = {.x = {fid, x1, x2, x3, x4, x5}};
    if (smc(&r) != SUCCESS) {
        show("refused", fid);
        show("status", r.x[0]);
        power_off();
    }
    return r.x[1];
}

/* ---- memory ---- */

static uint64_t next_page[NUM_RECS]; // each PE has its own, so that they need no lock

static void begin_memory(void) {
    next_page[0] = (uint64_t)image_end;
    next_page[1] = next_page[0] + 0x1000000;
}

uint64_t new_page(void) {
    uint64_t *next = &next_page[READ(mpidr_el1) & 0xff], page = *next;
    *next += PAGE;
    for (int n = 0; n < PAGE / 8; n++) {
        words(page)[n] = 0;
    }
    return page;
}

uint64_t new_delegated(void) {
    uint64_t page = new_page();
    RMI(RMI_GRANULE_DELEGATE, page);
    return page;
}

static void undelegate(uint64_t page) {
    RMI(RMI_GRANULE_UNDELEGATE, page);
    for (int n = 0; n < PAGE / 8; n++) {
        if (words(page)[n]) {
            show("not scrubbed", page);
            power_off();
        }
    }
}

/* ---- making the realm ---- */

static void create_realm(void) {
    struct realm_params *params = (void *)new_page();
    show("RMI", RMI(RMI_VERSION, 0x10000));
    RMI(RMI_FEATURES, 0);
    realm.rd = new_delegated();
    realm.start_table = new_delegated();
    params->s2sz = 33;
    params->num_bps = params->num_wps = 1;
    params->vmid = 1;
    params->rtt_base = realm.start_table;
    params->rtt_level_start = params->rtt_num_start = 1;
    RMI(RMI_REALM_CREATE, realm.rd, params);
}

static void create_tables(void) {
    for (int half = 0; half < 2; half++) {
        uint64_t ipa = RAM + (half ? ALIAS : 0);
        for (int level = 2; level <= 3; level++) {
            realm.tables[half][level - 2] = new_delegated();
            RMI(RMI_RTT_CREATE, realm.rd, realm.tables[half][level - 2], ipa, level);
        }
    }
}

// Private memory with the measured contents of a page of the host.
static void load(uint64_t ipa, const char *source) {
    uint64_t copy = new_page();
    for (int n = 0; n < PAGE / 8; n++) {
        words(copy)[n] = ((const uint64_t *)source)[n];
    }
    uint64_t data = new_delegated();
    RMI(RMI_DATA_CREATE, realm.rd, data, ipa, copy, MEASURE_CONTENT);
    realm.page[(ipa - RAM) / PAGE] = data;
}

static void create_rec(int index) {
    struct rec_params *params = (void *)new_page();
    params->flags = index ? 0 : RUNNABLE;
    params->mpidr = (uint64_t)index;
    params->pc = RAM;
    params->num_aux = realm.num_aux;
    for (uint64_t n = 0; n < realm.num_aux; n++) {
        params->aux[n] = realm.aux[index][n] = new_delegated();
    }
    realm.rec[index] = new_delegated();
    realm.run[index] = (void *)new_page();
    RMI(RMI_REC_CREATE, realm.rd, realm.rec[index], params);
}

void make_realm(void) {
    begin_memory();
    create_realm();
    create_tables();
    for (uint64_t base = RAM; base < RAM + TABLE_SPAN;) {
        base = RMI(RMI_RTT_INIT_RIPAS, realm.rd, base, RAM + TABLE_SPAN);
    }
    for (const char *source = realm_image; source < realm_image_end; source += PAGE) {
        load(RAM + (uint64_t)(source - realm_image), source);
    }
    realm.num_aux = RMI(RMI_REC_AUX_COUNT, realm.rd);
    for (int index = 0; index < NUM_RECS; index++) {
        create_rec(index);
    }
    RMI(RMI_REALM_ACTIVATE, realm.rd);
}

/* ---- its exits; each returns the flags of the next entry ---- */

static uint64_t emulate_uart(struct rec_run *run) {
    if (run->exit.esr >> 6 & 1) {
        put((char)run->exit.gprs[0]);
    } else {
        run->enter.gprs[0] = 0;
    }
    return EMUL_MMIO;
}

static uint64_t handle_abort(struct rec_run *run) {
    uint64_t ipa = run->exit.hpfar >> 4 << 12;
    if (ipa == UART + ALIAS) {
        return emulate_uart(run);
    }
    if (ipa < RAM || ipa >= RAM + TABLE_SPAN) {
        show("no memory there", ipa);
        return INJECT_SEA;
    }
    uint64_t data = new_delegated();
    RMI(RMI_DATA_CREATE_UNKNOWN, realm.rd, data, ipa);
    realm.page[(ipa - RAM) / PAGE] = data;
    return 0;
}

// Private memory becomes shared: the realm loses the page and gets one of ours at the alias.
static void share(uint64_t ipa) {
    uint64_t n = (ipa - RAM) / PAGE;
    if (realm.page[n]) {
        undelegate(RMI(RMI_DATA_DESTROY, realm.rd, ipa));
        realm.page[n] = 0;
    }
    realm.shared[n] = new_page();
    RMI(RMI_RTT_MAP_UNPROTECTED, realm.rd, ipa + ALIAS, 3, realm.shared[n] | 6 << 2 | 3 << 6);
}

static void handle_ripas_change(int index, struct rec_run *run) {
    uint64_t base = run->exit.ripas_base, top = run->exit.ripas_top;
    uint64_t end = RMI(RMI_RTT_SET_RIPAS, realm.rd, realm.rec[index], base, top);
    print("host: the realm shares memory\n");
    for (uint64_t ipa = base; ipa < end && !run->exit.ripas_value; ipa += PAGE) {
        share(ipa);
    }
}

// A PE for the second REC, if there is one.
static void power_on_rec(int index) {
    struct registers info = {.x = {PSCI_AFFINITY_INFO, 1}}, on = {.x = {PSCI_CPU_ON, 1, (uint64_t)start_secondary, 1}};
    bool accepted = smc(&info) == PSCI_OFF;
    RMI(RMI_PSCI_COMPLETE, realm.rec[index], realm.rec[1], accepted ? PSCI_SUCCESS : PSCI_DENIED);
    if (accepted) {
        smc(&on);
    }
}

// @return whether the REC runs on
static bool handle_exit(int index, struct rec_run *run) {
    run->enter.flags = 0;
    switch (run->exit.reason) {
    case EXIT_SYNC:
        if (run->exit.esr >> 26 == 0x24) {
            run->enter.flags = handle_abort(run);
        }
        return true; // otherwise WFI
    case EXIT_IRQ: take_interrupt(); return true;
    case EXIT_PSCI:
        if (run->exit.gprs[0] == PSCI_CPU_ON) {
            power_on_rec(index);
        }
        return run->exit.gprs[0] != PSCI_CPU_OFF && run->exit.gprs[0] != PSCI_SYSTEM_OFF;
    case EXIT_RIPAS_CHANGE: handle_ripas_change(index, run); return true;
    case EXIT_HOST_CALL: host_calls[run->exit.imm & 3](run); return true;
    default: show("exit", run->exit.reason); return false;
    }
}

bool step_rec(int index) {
    RMI(RMI_REC_ENTER, realm.rec[index], realm.run[index]);
    return handle_exit(index, realm.run[index]);
}

void run_rec(int index) {
    while (step_rec(index)) {
    }
}

/* ---- the end ---- */

static void destroy_memory(void) {
    for (int n = 0; n < NUM_PAGES; n++) {
        uint64_t ipa = RAM + (uint64_t)n * PAGE;
        if (realm.page[n]) {
            undelegate(RMI(RMI_DATA_DESTROY, realm.rd, ipa));
        }
        if (realm.shared[n]) {
            RMI(RMI_RTT_UNMAP_UNPROTECTED, realm.rd, ipa + ALIAS, 3);
        }
    }
    for (int half = 0; half < 2; half++) {
        for (int level = 3; level >= 2; level--) {
            undelegate(RMI(RMI_RTT_DESTROY, realm.rd, RAM + (half ? ALIAS : 0), level));
        }
    }
}

void destroy_realm(void) {
    for (int index = 0; index < NUM_RECS; index++) {
        RMI(RMI_REC_DESTROY, realm.rec[index]);
        undelegate(realm.rec[index]);
        for (uint64_t n = 0; n < realm.num_aux; n++) {
            undelegate(realm.aux[index][n]);
        }
    }
    destroy_memory();
    RMI(RMI_REALM_DESTROY, realm.rd);
    undelegate(realm.rd);
    undelegate(realm.start_table);
}

void wait_for_secondary(void) {
    struct registers info;
    do {
        info = (struct registers){.x = {PSCI_AFFINITY_INFO, 1}};
    } while (smc(&info) == PSCI_ON);
}

void die(uint64_t esr, uint64_t far, uint64_t elr) {
    show("unexpected exception", esr);
    show("far", far);
    show("elr", elr);
    power_off();
}
