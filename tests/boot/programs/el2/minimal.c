// A minimal host of one realm, on one or two PEs: what it does is in host.c.
#include "host.h"
#include "timers.h"

static void show_measurement(struct rec_run *run) {
    print("RIM: ");
    for (int n = 0; n < 32; n++) {
        unsigned byte = run->exit.gprs[1 + n / 8] >> 8 * (n % 8) & 0xff;
        put("0123456789abcdef"[byte >> 4]);
        put("0123456789abcdef"[byte & 0xf]);
    }
    put('\n');
}

static void show_shared(struct rec_run *run) {
    print((const char *)realm.shared[(run->exit.gprs[1] - RAM) / PAGE]);
}

// The realm has a secret at an IPA: its page is out of reach.
static void look_at_secret(struct rec_run *run) {
    uint64_t esr = try_read(realm.page[(run->exit.gprs[1] - RAM) / PAGE]);
    show("host: reading private memory, ESR_EL2", esr);
}

// The realm computes, next until an interrupt.
static void wait_for_interrupt(struct rec_run *run) {
    begin_wait((unsigned)run->exit.gprs[1], words(realm.shared[SHARED_PAGE] + 128));
}

void (*const host_calls[4])(struct rec_run *) = {wait_for_interrupt, show_measurement, show_shared, look_at_secret};

void secondary(uint64_t index) {
    run_rec((int)index);
}

void main(void) {
    enable_interrupts();
    make_realm();
    print("host: the realm is active\n");
    run_rec(0);
    wait_for_secondary();
    print("host: the realm is off\n");
    destroy_realm();
    print("host: all memory is back, as zeros\n");
}
