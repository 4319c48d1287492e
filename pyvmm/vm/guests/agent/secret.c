/*
 * pyvmm-agent secret SERVER REPOSITORY/TYPE/TAG: get a secret from a key broker, for example `pyvmm kbs`.
 *
 * The host carries all messages. It learns nothing: the broker encrypts the secret to a key that was made here, whose
 * public part is bound into the token. The secret's origin is not proved: whoever carries the messages can answer in
 * the broker's place. Spec: Confidential Containers, "KBS Attestation Protocol"; RFC 7516; RFC 7518.
 */
#include "secret.h"

#define ROOT "/kbs/v0/"
#define ALGORITHM "ECDH-ES+A256KW"
#define COOKIE "kbs-session-id="

enum { MAX_TOKEN = 64 << 10, MAX_SECRET = 64 << 10, MAX_TEXT = MAX_TOKEN * 4 + 4096, SHORT = 512 };

static uint8_t private_key[P256_SIZE];
static char request[MAX_TEXT], body[MAX_TEXT], cookie[SHORT] = "";

/* returns the response's body if its status is 200; otherwise ends with the broker's reason. */
static const char *call(const char *server, const char *method, const char *path) {
    struct response response;
    request[0] = 0;
    const char *parts[] = {method, " " ROOT, path, " HTTP/1.0\r\nHost: kbs\r\n", cookie};
    for (size_t n = 0; n < sizeof parts / sizeof *parts; n++)
        text_append(request, sizeof request, parts[n]);
    text_append(request, sizeof request, "Content-Length: ");
    text_append_number(request, sizeof request, (unsigned)text_size(body));
    text_append(request, sizeof request, "\r\n\r\n");
    text_append(request, sizeof request, body);
    if (!exchange(server, request, &response))
        sys_exit(1);
    if (response.status != 200) {
        char why[SHORT] = "", status[SHORT] = "the broker refuses, status ";
        text_append_number(status, sizeof status, response.status);
        complain(path, find_member(response.body, "detail", why, sizeof why) ? why : status);
        sys_exit(1);
    }
    for (const char *at = response.headers; *at && !cookie[0]; at++)
        if (text_starts(at, COOKIE)) {
            text_append(cookie, sizeof cookie, "Cookie: ");
            for (size_t n = text_size(cookie); *at > ' ' && *at != ';' && n + 3 < sizeof cookie; n++)
                cookie[n] = *at++, cookie[n + 1] = 0;
            text_append(cookie, sizeof cookie, "\r\n");
        }
    return response.body;
}

static _Noreturn void fail(const char *why) {
    complain("secret", why);
    sys_exit(1);
}

/* ---- attestation ---- */

static void append_coordinate(char *text, size_t size, const char *name, const uint8_t *data) {
    text_append(text, size, name);
    append_base64(text, size, data, P256_SIZE);
    text_append(text, size, "\"");
}

/* Makes a key, and the text that the token has to bind: JSON with sorted members and without spaces. */
static void write_runtime_data(char *text, size_t size, const char *nonce) {
    uint8_t x[P256_SIZE], y[P256_SIZE];
    if (SYSCALL(getrandom, private_key, sizeof private_key, 0, 0, 0) != sizeof private_key)
        fail("no random numbers");
    p256_public(private_key, x, y);
    text_append(text, size, "{\"nonce\":\"");
    text_append(text, size, nonce);
    text_append(text, size, "\",\"tee-pubkey\":{\"alg\":\"" ALGORITHM "\",\"crv\":\"P-256\",\"kty\":\"EC\"");
    append_coordinate(text, size, ",\"x\":\"", x);
    append_coordinate(text, size, ",\"y\":\"", y);
    text_append(text, size, "}}");
}

/* Writes the answer to a challenge into the body of the next request. */
static void write_answer(const char *nonce) {
    static uint8_t token[MAX_TOKEN];
    char data[SHORT] = "";
    uint8_t challenge[CHALLENGE_SIZE] = {0};
    size_t size = 0;
    write_runtime_data(data, sizeof data, nonce);
    sha384((const uint8_t *)data, text_size(data), challenge);
    const char *problem = get_report(challenge, token, sizeof token, &size);
    if (problem)
        fail(problem);
    body[0] = 0;
    text_append(body, sizeof body, "{\"runtime-data\":");
    text_append(body, sizeof body, data);
    text_append(body, sizeof body, ",\"tee-evidence\":{\"primary_evidence\":{\"token\":[");
    char *end = body + text_size(body);
    for (size_t n = 0; n < size; n++) {
        text_append(end, 8, n ? "," : "");
        text_append_number(end, 8, token[n]);
        end += text_size(end);
    }
    text_append(end, SHORT, "]},\"additional_evidence\":\"\"}}");
}

/* ---- the secret ---- */

/* Decodes a member of exactly `size` bytes. */
static bool decode_member(const char *json, const char *name, uint8_t *data, size_t size) {
    char text[SHORT];
    size_t found;
    return find_member(json, name, text, sizeof text) && decode_base64(text, data, size, &found) && found == size;
}

/* Derives the key that wraps the content's key; the header names the broker's ephemeral key. */
static bool derive_key(const char *protected, uint8_t *key) {
    /* Counter, shared secret, algorithm, two parties without names, bits of the key (RFC 7518, 4.6.2). */
    uint8_t input[4 + P256_SIZE + 4 + sizeof ALGORITHM - 1 + 4 + 4 + 4] = {[3] = 1};
    uint8_t x[P256_SIZE], y[P256_SIZE];
    char header[2 * SHORT], name[SHORT];
    size_t size;
    if (!decode_base64(protected, (uint8_t *)header, sizeof header - 1, &size))
        return false;
    header[size] = 0;
    if (!find_member(header, "alg", name, sizeof name) || !text_equal(name, ALGORITHM) ||
        !find_member(header, "enc", name, sizeof name) || !text_equal(name, "A256GCM") ||
        !decode_member(header, "x", x, sizeof x) || !decode_member(header, "y", y, sizeof y) ||
        !p256_agree(private_key, x, y, input + 4))
        return false;
    input[4 + P256_SIZE + 3] = sizeof ALGORITHM - 1;
    __builtin_memcpy(input + 4 + P256_SIZE + 4, ALGORITHM, sizeof ALGORITHM - 1);
    input[sizeof input - 2] = 8 * AES_KEY_SIZE >> 8;
    sha256(input, sizeof input, key);
    return true;
}

/* Decrypts a JWE. */
static bool open_secret(const char *jwe, uint8_t *secret, size_t *size) {
    static char protected[2 * SHORT], ciphertext[MAX_SECRET / 3 * 4 + 8];
    uint8_t wrapping_key[SHA256_SIZE], wrapped[AES_WRAPPED_SIZE], key[AES_KEY_SIZE], iv[GCM_IV_SIZE], tag[GCM_TAG_SIZE];
    return find_member(jwe, "protected", protected, sizeof protected) &&
           find_member(jwe, "ciphertext", ciphertext, sizeof ciphertext) &&
           decode_base64(ciphertext, secret, MAX_SECRET, size) &&
           decode_member(jwe, "encrypted_key", wrapped, sizeof wrapped) && decode_member(jwe, "iv", iv, sizeof iv) &&
           decode_member(jwe, "tag", tag, sizeof tag) && derive_key(protected, wrapping_key) &&
           aes_unwrap(wrapping_key, wrapped, key) &&
           aes_gcm_open(key, iv, (const uint8_t *)protected, text_size(protected), secret, *size, tag);
}

_Noreturn void run_secret(const char *server, const char *name) {
    static uint8_t secret[MAX_SECRET];
    char nonce[SHORT / 4], path[SHORT] = "resource/";
    size_t size = 0;
    if (!is_plain(name, "/.") || text_size(name) + sizeof "resource/" > sizeof path) {
        complain(name, "give REPOSITORY/TYPE/TAG");
        sys_exit(2);
    }
    text_append(path, sizeof path, name);
    text_append(body, sizeof body, "{\"version\":\"0.4.0\",\"tee\":\"cca\",\"extra-params\":{}}");
    const char *challenge = call(server, "POST", "auth");
    if (!find_member(challenge, "nonce", nonce, sizeof nonce) || !is_plain(nonce, "+/="))
        fail("the broker sent no challenge");
    write_answer(nonce);
    call(server, "POST", "attest");
    body[0] = 0;
    if (!open_secret(call(server, "GET", path), secret, &size))
        fail("the broker's answer is not a secret for this realm");
    if (!write_all(1, secret, size))
        fail("cannot write the secret");
    sys_exit(0);
}
