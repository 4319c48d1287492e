/*
 * The cryptographic primitives of the A64 instructions, on whole vectors.
 *
 * Each has a portable body; AES, SHA-256 rounds and the 64-bit polynomial product use the host's instructions if the
 * host has them (checked at run time).
 */
#ifndef PYVMM_CORE_SIMD_CRYPTO_H
#define PYVMM_CORE_SIMD_CRYPTO_H

#include "cpu.h"

/* *state, exclusive-or with the key, then ShiftRows and SubBytes, or their inverses. */
void aes_encrypt(union v128 *state, const union v128 *key);
void aes_decrypt(union v128 *state, const union v128 *key);
void aes_mix_columns(union v128 *r, const union v128 *n);
void aes_inv_mix_columns(union v128 *r, const union v128 *n);

enum sha1_function { SHA1_CHOOSE, SHA1_PARITY, SHA1_MAJORITY };
/* Four rounds; w = schedule + constants. */
void sha1_rounds(enum sha1_function function, union v128 *abcd, uint32_t e, const union v128 *w);
void sha256_rounds(union v128 *abcd, union v128 *efgh, const union v128 *w);
void sha256_schedule0(union v128 *w0, const union v128 *w4);
void sha256_schedule1(union v128 *w0, const union v128 *w8, const union v128 *w12);

void polynomial_product(union v128 *r, uint64_t n, uint64_t m);

#endif
