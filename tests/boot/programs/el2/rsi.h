// The Realm Services Interface 1.0, as far as the programs here use it.  Spec: Arm DEN0137.
#ifndef RSI_H
#define RSI_H

#include <stdint.h>

enum { PAGE = 0x1000 };
#define RAM 0x80000000ull
#define RSI_FID(n) (0xc4000000ull | (n))
#define RSI_VERSION RSI_FID(0x190)
#define RSI_MEASUREMENT_READ RSI_FID(0x192)
#define RSI_TOKEN_INIT RSI_FID(0x194)
#define RSI_TOKEN_CONTINUE RSI_FID(0x195)
#define RSI_REALM_CONFIG RSI_FID(0x196)
#define RSI_IPA_STATE_SET RSI_FID(0x197)
#define RSI_HOST_CALL RSI_FID(0x199)
enum { RSI_INCOMPLETE = 3 };
#define PSCI_CPU_ON 0xc4000003ull

struct call {
    uint64_t x[10];
};
uint64_t smc(struct call *call); // realm_start.S
void start_second(void);

struct host_call {
    uint64_t imm, gprs[31];
};

#endif
