/*
 * Memory access behind the TLB: misses, accesses that cross a page, stores into pages with decoded code, atomics.
 */
#include "mem.h"

#include "code.h"
#include "debug.h"
#include "mmu.h"
#include "raise.h"

/* A part of an access, which ends at the latest at the end of its page. */
struct part {
    uint8_t *host;
    unsigned size;
};

/* Single-copy atomic for the architecture's sizes. */
static void load(void *data, const uint8_t *host, unsigned size) {
    uint64_t value;
    switch (size) {
    case 1: value = guest_load8(host); break;
    case 2: value = guest_load16(host); break;
    case 4: value = guest_load32(host); break;
    case 8: value = guest_load64(host); break;
    default: guest_read(data, host, size); return;
    }
    memcpy(data, &value, size); /* little-endian hosts only, as everywhere */
}

static void store(uint8_t *host, const void *data, unsigned size) {
    uint64_t value = 0;
    memcpy(&value, data, size <= 8 ? size : 0);
    switch (size) {
    case 1: guest_store8(host, (uint8_t)value); break;
    case 2: guest_store16(host, (uint16_t)value); break;
    case 4: guest_store32(host, (uint32_t)value); break;
    case 8: guest_store64(host, value); break;
    default: guest_write(host, data, size);
    }
}

/* Host address, through the TLB of any index. */
static uint8_t *host_of(struct cpu *cpu, uint64_t va, enum alignment alignment, enum access access,
                        enum mmu_index index) {
    const struct tlb_entry *e = &cpu->tlbs[index][(va >> GRANULE_SHIFT) & (TLB_SIZE - 1)];
    if ((access == ACCESS_WRITE ? e->write_tag : e->read_tag) == (va & PAGE_MASK)) {
        return (uint8_t *)(va + e->addend);
    }
    return mmu_fill(cpu, va, alignment, access, index);
}

/* Translate the whole access before any part of it is done.  parts[1].size is 0 unless it crosses a page. */
static bool parts_of(struct cpu *cpu, uint64_t va, unsigned size, unsigned element, enum access access,
                     enum mmu_index index, struct part parts[2]) {
    enum alignment alignment = va & (element - 1) ? UNALIGNED : ALIGNED;
    unsigned room = GRANULE_SIZE - (va & ~PAGE_MASK);
    parts[0].size = size <= room ? size : room;
    parts[1].size = size - parts[0].size;
    parts[0].host = host_of(cpu, va, alignment, access, index);
    if (!parts[0].host || !parts[1].size) {
        return parts[0].host;
    }
    parts[1].host = host_of(cpu, va + room, alignment, access, index);
    return parts[1].host;
}

/* After the translation, whose faults have priority over watchpoints. */
static bool is_watched(struct cpu *cpu, uint64_t va, unsigned size, bool read, bool write, enum mmu_index index) {
    return unlikely(cpu->debug.num_watched) && debug_watch(cpu, va, size, read, write, index);
}

bool mem_read_slow(struct cpu *cpu, uint64_t va, void *data, unsigned size, unsigned element, enum mmu_index index) {
    struct part parts[2];
    if (!parts_of(cpu, va, size, element, ACCESS_READ, index, parts) ||
        is_watched(cpu, va, size, true, false, index)) {
        return false;
    }
    load(data, parts[0].host, parts[0].size);
    if (parts[1].size) {
        load((uint8_t *)data + parts[0].size, parts[1].host, parts[1].size);
    }
    return true;
}

/* Report a store to a granule with decoded code to code.c. */
static void stored(struct cpu *cpu, const uint8_t *host, unsigned size) {
    const struct machine *machine = cpu->machine;
    for (unsigned pas = 0; pas < NUM_PAS; pas++) {
        uint64_t offset = (uint64_t)(host - machine->memory[pas]);
        if (offset < machine->dram_size) {
            if (atomic_load_explicit(&machine->has_code[pas][offset >> GRANULE_SHIFT], memory_order_relaxed)) {
                code_written(cpu, host, size);
            }
            return;
        }
    }
}

bool mem_write_slow(struct cpu *cpu, uint64_t va, const void *data, unsigned size, unsigned element,
                    enum mmu_index index) {
    struct part parts[2];
    if (!parts_of(cpu, va, size, element, ACCESS_WRITE, index, parts) ||
        is_watched(cpu, va, size, false, true, index)) {
        return false;
    }
    store(parts[0].host, data, parts[0].size);
    stored(cpu, parts[0].host, parts[0].size);
    if (parts[1].size) {
        store(parts[1].host, (const uint8_t *)data + parts[0].size, parts[1].size);
        stored(cpu, parts[1].host, parts[1].size);
    }
    return true;
}

/* The read comes first: a fault that a read would cause is reported as a read (ESR_ELx.WnR of atomics). */
void *mem_rmw(struct cpu *cpu, uint64_t va, unsigned size, bool reads) {
    enum mmu_index index = mmu_index(cpu);
    if (va & (size - 1)) {
        raise_alignment(cpu, va, true);
        return NULL;
    }
    if (reads && !host_of(cpu, va, ALIGNED, ACCESS_READ, index)) {
        return NULL;
    }
    void *host = host_of(cpu, va, ALIGNED, ACCESS_WRITE, index);
    return !host || is_watched(cpu, va, size, reads, true, index) ? NULL : host;
}

bool mem_zero64_slow(struct cpu *cpu, uint64_t va) {
    enum mmu_index index = mmu_index(cpu);
    uint8_t *host = host_of(cpu, va, ZEROING, ACCESS_WRITE, index);
    if (!host || is_watched(cpu, va, 64, false, true, index)) {
        return false;
    }
    guest_zero(host, 64);
    stored(cpu, host, 64);
    return true;
}

void mem_rmw_done(struct cpu *cpu, uint64_t va, void *host, unsigned size) {
    (void)va;
    stored(cpu, host, size);
}
