/* A compressor: LZ77 matches through a hash, Huffman-coded, and the way back. */
#include <stdlib.h>

#include "check.h"

enum { SIZE = 60000, MIN_MATCH = 4, MAX_MATCH = 67, WINDOW = 4096, HASH = 4096, SYMBOLS = 256 + MAX_MATCH };

struct bits {
    uint8_t *data;
    uint64_t held;
    unsigned count;
    size_t at;
};

static void put(struct bits *b, uint32_t value, unsigned count) {
    b->held |= (uint64_t)value << b->count;
    for (b->count += count; b->count >= 8; b->count -= 8, b->held >>= 8) {
        b->data[b->at++] = (uint8_t)b->held;
    }
}

static uint32_t get(struct bits *b, unsigned count) {
    for (; b->count < count; b->count += 8) {
        b->held |= (uint64_t)b->data[b->at++] << b->count;
    }
    uint32_t value = (uint32_t)(b->held & ((1ull << count) - 1));
    b->held >>= count;
    b->count -= count;
    return value;
}

static void make_text(uint8_t *text) {
    static const char *const words[] = {"the ", "realm ", "granule ", "of ", "a ", "world, ", "host\n", "0x", "table; ", "is "};
    uint64_t seed = 51;
    for (size_t at = 0; at < SIZE;) {
        uint64_t r = next_random(&seed) >> 16;
        if (r % 16 == 0) {
            text[at++] = (uint8_t)(r >> 8);
            continue;
        }
        for (const char *c = words[r % 10]; *c && at < SIZE; c++) {
            text[at++] = (uint8_t)*c;
        }
    }
}

struct code {
    uint8_t length[SYMBOLS];
    uint32_t bits[SYMBOLS];
};

/* Huffman lengths by merging the two rarest, then canonical codes, least significant bit first. */
static void make_code(struct code *code, const uint32_t *frequency) {
    uint32_t weight[2 * SYMBOLS];
    int parent[2 * SYMBOLS];
    unsigned nodes = SYMBOLS;
    for (unsigned s = 0; s < SYMBOLS; s++) {
        weight[s] = frequency[s] + 1;
    }
    memset(parent, 0xff, sizeof parent);
    for (; nodes < 2 * SYMBOLS - 1; nodes++) {
        int least[2] = {-1, -1};
        for (unsigned k = 0; k < nodes; k++) {
            if (parent[k] >= 0) {
                continue;
            }
            if (least[0] < 0 || weight[k] < weight[least[0]]) {
                least[1] = least[0], least[0] = (int)k;
            } else if (least[1] < 0 || weight[k] < weight[least[1]]) {
                least[1] = (int)k;
            }
        }
        parent[least[0]] = parent[least[1]] = (int)nodes;
        weight[nodes] = weight[least[0]] + weight[least[1]];
    }
    uint32_t next = 0;
    for (unsigned s = 0; s < SYMBOLS; s++) {
        code->length[s] = 0;
        for (int k = (int)s; parent[k] >= 0; k = parent[k]) {
            code->length[s]++;
        }
    }
    for (unsigned length = 1; length < 32; length++, next <<= 1) {
        for (unsigned s = 0; s < SYMBOLS; s++) {
            if (code->length[s] == length) {
                code->bits[s] = __builtin_bitreverse32(next++) >> (32 - length);
            }
        }
    }
}

/* Tokens: a byte, or 256 + length with a distance behind it. */
static size_t find_matches(const uint8_t *text, uint32_t *tokens) {
    static int32_t newest[HASH];
    memset(newest, 0xff, sizeof newest);
    size_t count = 0;
    for (size_t at = 0; at < SIZE;) {
        uint32_t word, length = 0;
        int32_t from = -1;
        if (at + MIN_MATCH <= SIZE) {
            memcpy(&word, text + at, 4);
            int32_t *slot = &newest[word * 2654435761u >> 20];
            from = *slot;
            *slot = (int32_t)at;
        }
        if (from >= 0 && at - (size_t)from < WINDOW) {
            while (length < MAX_MATCH - 1 && at + length < SIZE && text[(size_t)from + length] == text[at + length]) {
                length++;
            }
        }
        if (length >= MIN_MATCH) {
            tokens[count++] = 256 + length;
            tokens[count++] = (uint32_t)(at - (size_t)from);
            at += length;
        } else {
            tokens[count++] = text[at++];
        }
    }
    return count;
}

static size_t compress(const uint8_t *text, uint8_t *out, struct code *code) {
    uint32_t *tokens = malloc(2 * SIZE * sizeof *tokens), frequency[SYMBOLS] = {0};
    size_t count = find_matches(text, tokens);
    for (size_t k = 0; k < count; k += tokens[k] >= 256 ? 2 : 1) {
        frequency[tokens[k]]++;
    }
    make_code(code, frequency);
    struct bits b = {.data = out};
    for (size_t k = 0; k < count; k++) {
        uint32_t token = tokens[k];
        put(&b, code->bits[token], code->length[token]);
        if (token >= 256) {
            put(&b, tokens[++k], 12);
        }
    }
    put(&b, 0, 7);
    free(tokens);
    return b.at;
}

static unsigned next_symbol(struct bits *b, const struct code *code) {
    uint32_t bits = 0;
    for (unsigned length = 1;; length++) {
        bits |= get(b, 1) << (length - 1);
        for (unsigned s = 0; s < SYMBOLS; s++) {
            if (code->length[s] == length && code->bits[s] == bits) {
                return s;
            }
        }
    }
}

static void decompress(uint8_t *in, uint8_t *text, const struct code *code) {
    struct bits b = {.data = in};
    for (size_t at = 0; at < SIZE;) {
        unsigned symbol = next_symbol(&b, code);
        if (symbol < 256) {
            text[at++] = (uint8_t)symbol;
            continue;
        }
        uint32_t distance = get(&b, 12);
        for (unsigned k = 0; k < symbol - 256; k++, at++) {
            text[at] = text[at - distance];
        }
    }
}

static uint32_t adler(const uint8_t *text) {
    uint32_t a = 1, b = 0;
    for (size_t k = 0; k < SIZE; k++) {
        a = (a + text[k]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

int main(void) {
    static uint8_t text[SIZE], packed[2 * SIZE], unpacked[SIZE];
    struct code code;
    make_text(text);
    size_t size = compress(text, packed, &code);
    decompress(packed, unpacked, &code);
    printf("%d bytes packed to %zu, %s\n", SIZE, size, memcmp(text, unpacked, SIZE) ? "and changed" : "and back");
    printf("adler %08x %08x packed %016" PRIx64 "\n", adler(text), adler(unpacked), add_bytes(SUM_START, packed, size));
    return 0;
}
