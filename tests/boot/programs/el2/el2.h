// What a program at EL2 of --machine virt needs: its devices, calls to EL3, text.
#ifndef EL2_H
#define EL2_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PAGE = 0x1000,
    UART = 0x09000000,
    GICD = 0x08000000,
    GICR = 0x080a0000,
    GICR_STRIDE = 0x20000,
};

enum psci {
    PSCI_CPU_OFF = 0x84000002,
    PSCI_SYSTEM_OFF = 0x84000008,
};
enum { PSCI_SUCCESS = 0, PSCI_DENIED = -3, PSCI_ON = 0, PSCI_OFF = 1 };
#define PSCI_CPU_ON 0xc4000003ull
#define PSCI_AFFINITY_INFO 0xc4000004ull

#define READ(reg)                                                                                                     \
    ({                                                                                                                \
        uint64_t value_;                                                                                              \
        __asm__ volatile("mrs %0, " #reg : "=r"(value_)::"memory");                                                   \
        value_;                                                                                                       \
    })
#define WRITE(reg, value) __asm__ volatile("msr " #reg ", %0\n\tisb" ::"r"((uint64_t)(value)) : "memory")
struct registers {
    uint64_t x[18];
};

uint64_t smc(struct registers *registers); // start.S
uint64_t try_read(uint64_t address);
void start_secondary(void);
extern char image_end[];

static inline volatile uint64_t *words(uint64_t address) {
    return (volatile uint64_t *)address;
}

static inline void write32(uint64_t address, uint32_t value) {
    *(volatile uint32_t *)address = value;
}

static inline void put(char c) {
    *(volatile uint8_t *)UART = (uint8_t)c;
}

static inline void print(const char *text) {
    while (*text) {
        put(*text++);
    }
}

static inline void print_hex(uint64_t value) {
    bool started = false;
    for (int shift = 60; shift >= 0; shift -= 4) {
        unsigned digit = value >> shift & 0xf;
        started |= digit || !shift;
        if (started) {
            put("0123456789abcdef"[digit]);
        }
    }
}

// A line "WHAT: VALUE", in hexadecimal.
static inline void show(const char *what, uint64_t value) {
    print(what);
    print(": ");
    print_hex(value);
    put('\n');
}

static inline void power_off(void) {
    struct registers off = {.x = {PSCI_SYSTEM_OFF}};
    smc(&off);
}

#endif
