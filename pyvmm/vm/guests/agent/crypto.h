/* What `secret` needs of cryptography. Nothing here branches or indexes memory by a secret. */
#ifndef CRYPTO_H
#define CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHA256_SIZE = 32, SHA384_SIZE = 48 };
enum { AES_KEY_SIZE = 32, AES_WRAPPED_SIZE = 40, GCM_IV_SIZE = 12, GCM_TAG_SIZE = 16 };
enum { P256_SIZE = 32 }; /* of a coordinate and of a private key, big-endian */

/* ---- sha2.c ---- */

void sha256(const uint8_t *data, size_t size, uint8_t *out);
void sha384(const uint8_t *data, size_t size, uint8_t *out);

/* ---- aes.c: with keys of 256 bits ---- */

/* AES key wrap (RFC 3394): returns false if the key was not wrapped with this one. */
bool aes_unwrap(const uint8_t *key, const uint8_t *wrapped, uint8_t *out);
/* GCM (SP 800-38D): decrypts in place; returns false, and leaves zeros, if the tag is not theirs. */
bool aes_gcm_open(const uint8_t *key, const uint8_t *iv, const uint8_t *aad, size_t aad_size, uint8_t *data,
                  size_t size, const uint8_t *tag);

/* ---- p256.c: Diffie-Hellman on P-256 (SP 800-56A) ---- */

/* Computes the public key of a private key. */
void p256_public(const uint8_t *private, uint8_t *x, uint8_t *y);
/* Computes the secret that we share with the owner of a public key; returns false if that is no point of the curve. */
bool p256_agree(const uint8_t *private, const uint8_t *x, const uint8_t *y, uint8_t *shared);

#endif
