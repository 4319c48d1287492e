/*
 * Granule protection check: the physical address space that a granule belongs to.
 *
 * The table is the architectural two-level GPT in Root memory.  Spec: DDI 0487 "Granule Protection Tables", GPCCR_EL3.
 * All failures of the check are one fault here: PEs below EL3 cannot distinguish them.
 */
#include "gpc.h"

#include "guest.h"
#include "regime.h"
#include "walk.h"

/* log2 of the granule size by GPCCR_EL3.PGS; 0b10 is 16 KB and 0b01 is 64 KB: not a typo */
static const uint8_t pgs_shift[4] = {12, 16, 14, 0};

/* @return false if the table entry lies outside DRAM */
static bool gpt_read(const struct machine *machine, uint64_t pa, uint64_t *entry) {
    const uint8_t *host = dram_host(machine, PAS_ROOT, pa & ~7ull);
    if (!host) {
        return false;
    }
    *entry = atomic_load_explicit((_Atomic uint64_t *)host, memory_order_relaxed);
    return true;
}

/* @return the GPI of a physical address below 2^PPS; GPI_NO_ACCESS for every kind of invalid table */
static enum gpi gpt_walk(const struct machine *machine, uint64_t gpccr, uint64_t pa) {
    unsigned shift = pgs_shift[FIELD(gpccr, GPCCR_PGS)];
    unsigned l0_shift = GPT_L0_SHIFT + FIELD(gpccr, GPCCR_L0GPTSZ);
    uint64_t entry;
    if (!shift || !gpt_read(machine, machine->gptbr + (pa >> l0_shift) * 8, &entry)) {
        return GPI_NO_ACCESS;
    }
    if ((entry & 15) == GPT_L0_BLOCK) {
        return entry >> GPT_L0_BLOCK_GPI_SHIFT & 15;
    }
    if ((entry & 15) != GPT_L0_TABLE) {
        return GPI_NO_ACCESS;
    }
    uint64_t index = (pa & ones(l0_shift)) >> (shift + 4); /* an entry describes 16 granules */
    if (!gpt_read(machine, (entry & 0x000ffffffffff000ull) + index * 8, &entry)) {
        return GPI_NO_ACCESS;
    }
    if ((entry & 15) == GPT_L1_CONTIGUOUS) {
        return entry >> GPT_L1_CONTIGUOUS_GPI_SHIFT & 15;
    }
    return entry >> ((pa >> shift & 15) * 4) & 15;
}

int gpc_check(struct machine *machine, enum pas pas, uint64_t pa) {
    static const uint8_t gpi_of[NUM_PAS] = {
        [PAS_SECURE] = GPI_SECURE, [PAS_NS] = GPI_NS, [PAS_ROOT] = GPI_ROOT, [PAS_REALM] = GPI_REALM};
    uint64_t gpccr = machine->gpccr;
    if (!(gpccr & GPCCR_GPC)) {
        return 0;
    }
    if (pa >> pa_bits(FIELD(gpccr, GPCCR_PPS))) {
        return pas == PAS_NS ? 0 : FSC_GPF;
    }
    enum gpi gpi = gpt_walk(machine, gpccr, pa);
    return gpi == GPI_ANY || gpi == gpi_of[pas] ? 0 : FSC_GPF;
}

/*
 * machine_tlbi_pa() is called after a change of the GPT and reads the marks; this function sets a mark, then reads the
 * GPT.  So either that function sees the mark and invalidates the new translation, or this one sees the new GPT.
 */
int gpc_admit(struct machine *machine, enum pas pas, uint64_t pa) {
    uint64_t offset = pa - machine->dram_base;
    if (offset < machine->dram_size) {
        _Atomic uint8_t *marks = &machine->marks[offset >> GRANULE_SHIFT];
        uint8_t wanted = (uint8_t)(MARK_CACHED | MARK_TOUCHED << pas);
        if ((atomic_load_explicit(marks, memory_order_relaxed) & wanted) != wanted) {
            atomic_fetch_or(marks, wanted);
        }
        atomic_thread_fence(memory_order_seq_cst);
    }
    return gpc_check(machine, pas, pa);
}
