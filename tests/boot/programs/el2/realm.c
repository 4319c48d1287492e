/*
 * The program of a realm, for host.c: it speaks through a UART of the host's, shows its measurement, shares a page, and
 * turns its second REC on.  Without a stage 1; what it does not have yet comes at its first access.
 */
#include "rsi.h"

#define SHARED (RAM + 0x100000)
#define SECRET (RAM + 0x110000)

static struct host_call host_call_page __attribute__((aligned(PAGE)));
static uint64_t config[PAGE / 8] __attribute__((aligned(PAGE)));
static uint64_t token[PAGE / 8] __attribute__((aligned(PAGE)));
static volatile uint64_t second_is_on;
static uint64_t alias;

static void print(const char *text) {
    while (*text) {
        *(volatile uint8_t *)(0x09000000 | alias) = (uint8_t)*text++;
    }
}

static void call_host(uint64_t imm, uint64_t gpr1) {
    host_call_page.imm = imm;
    host_call_page.gprs[1] = gpr1;
    struct call call = {.x = {RSI_HOST_CALL, (uint64_t)&host_call_page}};
    smc(&call);
}

static void show_measurement(void) {
    struct call call = {.x = {RSI_MEASUREMENT_READ, 0}};
    smc(&call);
    for (int n = 1; n < 4; n++) {
        host_call_page.gprs[1 + n] = call.x[1 + n];
    }
    call_host(1, call.x[1]);
}

// The host only sees whether there is a token.
static void attest(void) {
    struct call init = {.x = {RSI_TOKEN_INIT, 1, 2, 3, 4, 5, 6, 7, 8}}, next;
    uint64_t status = smc(&init), size = 0;
    if (status == 0) {
        do { // the next parts overwrite the first: only their number counts
            next = (struct call){.x = {RSI_TOKEN_CONTINUE, (uint64_t)token, 0, PAGE}};
            status = smc(&next);
            size += next.x[1];
        } while (status == RSI_INCOMPLETE);
    }
    print(status == 0 && size ? "realm: the platform has signed a token\n" : "realm: no token\n");
}

static void share_page(void) {
    struct call call = {.x = {RSI_IPA_STATE_SET, SHARED, SHARED + PAGE}};
    smc(&call);
    const char *text = "realm: this page is shared\n";
    for (volatile char *to = (char *)(SHARED | alias); *text; *to++ = *text++) {
    }
    call_host(2, SHARED);
}

// Compute until the host says so by an interrupt, or for so many ticks.
static void wait_for_interrupt(void) {
    volatile uint64_t *ended = (uint64_t *)(SHARED | alias) + 16, *ticks = ended + 1;
    uint64_t start, now;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(start));
    do {
        __asm__ volatile("mrs %0, cntvct_el0" : "=r"(now));
    } while (!*ended && now - start < *ticks);
}

void main(void) {
    struct call version = {.x = {RSI_VERSION, 0x10000}}, get_config = {.x = {RSI_REALM_CONFIG, (uint64_t)config}};
    smc(&version);
    smc(&get_config);
    alias = 1ull << (config[0] - 1);
    print("realm: hello\n");
    show_measurement();
    attest();
    share_page();
    *(volatile uint64_t *)SECRET = 0x5ec2e7;
    call_host(3, SECRET);
    for (uint64_t n = 0; n < 6; n++) {
        call_host(0, n);
        wait_for_interrupt();
    }
    call_host(0, 6);
    struct call on = {.x = {PSCI_CPU_ON, 1, (uint64_t)start_second}};
    if (smc(&on) == 0) {
        while (!second_is_on) {
        }
        print("realm: both RECs have run\n");
    } else {
        print("realm: the host denied the second REC\n");
    }
}

void second(void) {
    print("realm: the second REC runs\n");
    second_is_on = 1;
}
