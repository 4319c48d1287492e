/*
 * Pointer authentication (FEAT_PAuth2, FEAT_FPACCOMBINE): a code computed from a pointer, a modifier and a secret key,
 * in the pointer's unused bits.
 *
 * The algorithm is IMPLEMENTATION DEFINED (FEAT_PACIMP): SipHash-1-3 of the 16 bytes of pointer and modifier, with the
 * key register as its 128-bit key.  It is a keyed pseudorandom function designed for software, unlike QARMA.
 * Spec: DDI 0487, AddPAC, Auth, Strip, ComputePAC, CalculateBottomPACBit.
 */
#include "pauth.h"

#include <string.h>

#include "raise.h"
#include "regime.h"

static uint64_t rotate(uint64_t value, unsigned count) {
    return value << count | value >> (64 - count);
}

static INLINE void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1], v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

static uint64_t siphash(const uint64_t key[2], uint64_t value, uint64_t modifier) {
    const uint64_t blocks[3] = {value, modifier, 16ull << 56}; /* the last one is the length */
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
                     key[1] ^ 0x7465646279746573};
    for (unsigned n = 0; n < 3; n++) {
        v[3] ^= blocks[n];
        sip_round(v);
        v[0] ^= blocks[n];
    }
    v[2] ^= 0xff;
    for (unsigned n = 0; n < 3; n++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ComputePAC */
static uint64_t compute(const struct cpu *cpu, enum pauth_key key, uint64_t value, uint64_t modifier) {
    return siphash(&cpu->st.pauth_keys[2ull * key], value, modifier);
}

/* ---- pointers that were signed or authenticated before ---- */

/* A return address is signed and authenticated with the same key and modifier again and again.  A memo is a pair of
 * pointers, without and with a code, each of which gives the other; its place depends on bits that both share. */
static unsigned memo_slot(uint64_t pointer, uint64_t modifier) {
    return (uint32_t)(pointer ^ modifier) * PAUTH_MEMO_FACTOR >> (32 - PAUTH_MEMO_BITS);
}

static INLINE struct pauth_memo *memo_of(struct cpu *cpu, enum pauth_key key, uint64_t pointer, uint64_t modifier) {
    return &cpu->pauth_memos[key][memo_slot(pointer, modifier)];
}

static INLINE bool is_memo_for(const struct cpu *cpu, const struct pauth_memo *memo, enum pauth_key key,
                               uint64_t modifier) {
    const uint64_t *k = &cpu->st.pauth_keys[2ull * key];
    return !((memo->modifier ^ modifier) | (memo->key[0] ^ k[0]) | (memo->key[1] ^ k[1]));
}

static void note_memo(struct cpu *cpu, enum pauth_key key, uint64_t plain, uint64_t modifier, uint64_t with_code) {
    const uint64_t *k = &cpu->st.pauth_keys[2ull * key];
    if (memo_slot(plain, modifier) == memo_slot(with_code, modifier)) {
        *memo_of(cpu, key, plain, modifier) = (struct pauth_memo){plain, modifier, {k[0], k[1]}, with_code};
    }
}

/* Zeros are for slot 0, and cannot be found in any other; 1 cannot be found in slot 0. */
static void forget_memos(struct cpu *cpu) {
    memset(cpu->pauth_memos, 0, sizeof cpu->pauth_memos);
    for (unsigned key = 0; key < 4; key++) {
        cpu->pauth_memos[key][0].plain = cpu->pauth_memos[key][0].with_code = 1;
    }
}

static bool is_data(enum pauth_key key) {
    return key & 2;
}

void pauth_update(struct cpu *cpu) {
    struct pauth_config config = {.enabled = cpu->st.sctlr_el1 & (SCTLR_EnIA | SCTLR_EnIB | SCTLR_EnDA | SCTLR_EnDB),
                                  .allowed = cpu->st.hcr_el2 & HCR_API};
    for (unsigned half = 0; half < 2; half++) {
        for (unsigned data = 0; data < 2; data++) {
            unsigned top = top_byte_ignored(cpu, (uint64_t)half << 55, !data) ? 56 : 64;
            config.extension[data][half] = ones(top) & ~ones(va_bits(cpu, half));
        }
    }
    if (memcmp(&config, &cpu->pauth_config, sizeof config) != 0) {
        cpu->pauth_config = config;
        forget_memos(cpu);
    }
}

static uint64_t extended(uint64_t pointer, uint64_t extension, bool high) {
    return high ? pointer | extension : pointer & ~extension;
}

/* The half of the VA space of a pointer without a code: if no half has tags, bit 63 shows it too. */
static bool selects_high(const struct cpu *cpu, uint64_t pointer, bool data) {
    bool has_no_tags = (cpu->pauth_config.extension[data][0] & cpu->pauth_config.extension[data][1]) >> 63;
    return pointer >> (has_no_tags ? 63 : 55) & 1;
}

/* Does SCTLR_EL1 enable the key?  Otherwise its instructions do not change the pointer. */
static bool is_enabled(const struct cpu *cpu, enum pauth_key key) {
    static const uint64_t enables[] = {
        [KEY_IA] = SCTLR_EnIA, [KEY_IB] = SCTLR_EnIB, [KEY_DA] = SCTLR_EnDA, [KEY_DB] = SCTLR_EnDB};
    return cpu->st.sctlr_el1 & enables[key];
}

static bool is_trapped(struct cpu *cpu) {
    return unlikely(!(cpu->st.hcr_el2 & HCR_API)) && !raise_exception(cpu, 2, EC_PAUTH, 0);
}

#define BIT_55 (1ull << 55)

static bool add_slowly(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier) {
    if (!is_enabled(cpu, key)) {
        return true;
    }
    if (is_trapped(cpu)) {
        return false;
    }
    bool high = selects_high(cpu, *pointer, is_data(key));
    uint64_t bits = cpu->pauth_config.extension[is_data(key)][high];
    uint64_t plain = extended(*pointer, bits, high);
    uint64_t code = compute(cpu, key, plain, modifier);
    uint64_t with_code = extended(*pointer ^ (code & bits), BIT_55, high);
    if (*pointer == plain) { /* the code of another pointer is not right */
        note_memo(cpu, key, plain, modifier, with_code);
    }
    *pointer = with_code;
    return true;
}

bool pauth_add(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier) {
    const struct pauth_memo *memo = memo_of(cpu, key, *pointer, modifier);
    if (likely(memo->plain == *pointer && is_memo_for(cpu, memo, key, modifier))) {
        *pointer = memo->with_code;
        return true;
    }
    return add_slowly(cpu, key, pointer, modifier);
}

static bool check_slowly(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier) {
    if (!is_enabled(cpu, key)) {
        return true;
    }
    if (is_trapped(cpu)) {
        return false;
    }
    bool high = va_is_high(*pointer);
    uint64_t bits = cpu->pauth_config.extension[is_data(key)][high];
    uint64_t plain = extended(*pointer, bits, high);
    uint64_t code = compute(cpu, key, plain, modifier) & bits & ~BIT_55;
    if (unlikely((*pointer ^ code) != plain)) {
        return raise_exception(cpu, 1, EC_PAC_FAIL, key); /* ISS: data key, B key */
    }
    note_memo(cpu, key, plain, modifier, *pointer);
    *pointer = plain;
    return true;
}

bool pauth_check(struct cpu *cpu, enum pauth_key key, uint64_t *pointer, uint64_t modifier) {
    const struct pauth_memo *memo = memo_of(cpu, key, *pointer, modifier);
    if (likely(memo->with_code == *pointer && is_memo_for(cpu, memo, key, modifier))) {
        *pointer = memo->plain;
        return true;
    }
    return check_slowly(cpu, key, pointer, modifier);
}

uint64_t pauth_strip(const struct cpu *cpu, uint64_t pointer, bool data) {
    bool high = va_is_high(pointer);
    return extended(pointer, cpu->pauth_config.extension[data][high], high);
}

bool pauth_generic(struct cpu *cpu, uint64_t value, uint64_t modifier, uint64_t *code) {
    if (is_trapped(cpu)) {
        return false;
    }
    *code = compute(cpu, KEY_GA, value, modifier) & ~ones(32);
    return true;
}
