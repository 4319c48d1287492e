/*
 * How TCR_EL1 configures the EL1&0 regime: sizes, granules, tags, ASIDs.
 */
#ifndef PYVMM_CORE_REGIME_H
#define PYVMM_CORE_REGIME_H

#include "cpu.h"

/* The physical address size of a PS / IPS / PPS / PARange encoding, limited to ours. */
static inline unsigned pa_bits(unsigned encoding) {
    static const uint8_t sizes[8] = {32, 36, 40, 42, 44, 48, 48, 48};
    return sizes[encoding & 7];
}

static inline bool va_is_high(uint64_t va) {
    return va >> 55 & 1;
}

/* log2 of TCR_EL1's translation granule for a half of the VA space. */
static inline unsigned s1_granule_bits(const struct cpu *cpu, bool high) {
    static const uint8_t granules[2][4] = {{12, 16, 14, 12}, {12, 14, 12, 16}}; /* TG0 and TG1 differ */
    return granules[high][high ? FIELD(cpu->st.tcr_el1, TCR_TG1) : FIELD(cpu->st.tcr_el1, TCR_TG0)];
}

/* AArch64.EffectiveTBI: TCR_EL1.TBIn, which TBIDn disables for instruction addresses. */
static inline bool top_byte_ignored(const struct cpu *cpu, uint64_t va, bool fetch) {
    uint64_t tcr = cpu->st.tcr_el1 >> va_is_high(va); /* TBI1 is above TBI0, TBID1 above TBID0 */
    return tcr & TCR_TBI0 && !(fetch && tcr & TCR_TBID0);
}

/* log2 of the size of the half of the VA space, from TnSZ; a value out of range is clamped. */
static inline unsigned va_bits(const struct cpu *cpu, bool high) {
    unsigned size_offset = high ? FIELD(cpu->st.tcr_el1, TCR_T1SZ) : FIELD(cpu->st.tcr_el1, TCR_T0SZ);
    return 64 - (size_offset < MIN_TNSZ ? MIN_TNSZ : size_offset > MAX_TNSZ ? MAX_TNSZ : size_offset);
}

/* With TCR_EL1.AS = 0 an ASID has 8 bits. */
static inline uint16_t effective_asid(const struct cpu *cpu, uint64_t asid) {
    return asid & (cpu->st.tcr_el1 & TCR_AS ? 0xffff : 0xff);
}

static inline uint16_t current_asid(const struct cpu *cpu) {
    return effective_asid(cpu, (cpu->st.tcr_el1 & TCR_A1 ? cpu->st.ttbr1_el1 : cpu->st.ttbr0_el1) >> 48);
}

#endif
