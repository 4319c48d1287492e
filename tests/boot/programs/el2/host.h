// The life of a realm, from its host's side.
#ifndef HOST_H
#define HOST_H

#include "el2.h"
#include "rmi.h"

enum { NUM_RECS = 2, NUM_PAGES = 512, NUM_AUX = 16, SHARED_PAGE = 0x100, TABLE_SPAN = 1 << 21 };
#define RAM 0x80000000ull
#define ALIAS (1ull << 32)
#define SUCCESS 0

extern struct realm {
    uint64_t rd, start_table, tables[2][2]; // of the RAM and of its alias: levels 2 and 3
    uint64_t rec[NUM_RECS], aux[NUM_RECS][NUM_AUX], num_aux;
    struct rec_run *run[NUM_RECS];
    uint64_t page[NUM_PAGES];   // private memory
    uint64_t shared[NUM_PAGES]; // mapped at the alias
} realm;

// The host's answers to RSI_HOST_CALL, by number, and to an interrupt.
extern void (*const host_calls[4])(struct rec_run *);
void take_interrupt(void);

// A command that must succeed; returns x1.
uint64_t run_rmi(uint64_t fid, uint64_t x1, uint64_t x2, uint64_t x3, uint64_t x4, uint64_t x5);
#define RMI(...) RMI_(__VA_ARGS__, 0, 0, 0, 0, 0)
#define RMI_(fid, a, b, c, d, e, ...)                                                                                 \
    run_rmi(fid, (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d), (uint64_t)(e))

uint64_t new_page(void);
uint64_t new_delegated(void);
void make_realm(void);
bool step_rec(int index); // enter it, and serve its exit; returns whether it runs on
void run_rec(int index);  // until it is off
void wait_for_secondary(void);
void destroy_realm(void);

#endif
