/*
 * Posting invalidations: from PE to PE, and from the host to PEs.  inval_serve.c performs them.
 *
 * A poster puts the request into the PE's queue and sets REQ_INVAL.  It may wait until the PE has served it; it need
 * not wait for a PE outside guest code, which serves its queue before it runs an instruction.  This order makes it
 * safe: the PE sets in_guest, then reads request; the poster sets request, then reads in_guest (all sequentially
 * consistent), so at least one of them sees the other's store.
 */
#include "inval.h"

#include <sched.h>

/* A full queue becomes "everything". */
static uint64_t post(struct cpu *cpu, struct inval what) {
    pthread_mutex_lock(&cpu->inval_lock);
    if (cpu->num_inval == INVAL_QUEUE) {
        cpu->inval[0] = (struct inval){.kind = INVAL_ALL};
        cpu->inval[1] = (struct inval){.kind = INVAL_CODE_ALL};
        cpu->num_inval = 2;
    }
    cpu->inval[cpu->num_inval++] = what;
    uint64_t ticket = atomic_fetch_add(&cpu->inval_posted, 1) + 1;
    cpu_request(cpu, REQ_INVAL);
    pthread_mutex_unlock(&cpu->inval_lock);
    return ticket;
}

bool inval_is_served(struct cpu *cpu, uint64_t ticket) {
    return !atomic_load(&cpu->in_guest) || atomic_load(&cpu->inval_done) >= ticket;
}

void cpu_post_inval(struct cpu *from, struct inval what, bool others_only) {
    struct machine *machine = from->machine;
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        if (k != from->index || !others_only) {
            from->inval_want[k] = post(machine->pe[k], what);
            from->inval_waiting |= k == from->index ? 0 : 1ull << k;
        }
    }
}

void machine_post_inval(struct machine *machine, struct inval what) {
    uint64_t tickets[64];
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        tickets[k] = post(machine->pe[k], what);
    }
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        while (!inval_is_served(machine->pe[k], tickets[k])) {
            sched_yield();
        }
    }
}

void machine_tlbi_all(struct machine *machine) {
    machine_post_inval(machine, (struct inval){.kind = INVAL_ALL});
}

/* A granule that was never in a TLB needs no flush. */
void machine_tlbi_pa(struct machine *machine, uint64_t pa, uint64_t size) {
    bool held = false;
    for (uint64_t at = pa & PAGE_MASK; at < pa + size; at += GRANULE_SIZE) {
        uint64_t offset = at - machine->dram_base;
        held |= offset < machine->dram_size &&
                atomic_fetch_and(&machine->marks[offset >> GRANULE_SHIFT], (uint8_t)~MARK_CACHED) & MARK_CACHED;
    }
    if (held) {
        machine_post_inval(machine, (struct inval){.kind = INVAL_PA, .addr = pa, .size = size});
    }
}

void machine_tlbi_ipa(struct machine *machine, uint64_t vmid, uint64_t ipa, uint64_t size) {
    (void)vmid; /* a PE caches translations of the last context that it ran, of any VMID */
    machine_post_inval(machine, (struct inval){.kind = INVAL_IPA, .addr = ipa, .size = size});
}

void machine_tlbi_vmid(struct machine *machine, uint64_t vmid) {
    (void)vmid;
    machine_post_inval(machine, (struct inval){.kind = INVAL_ALL});
}
