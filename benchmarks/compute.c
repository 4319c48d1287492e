/* Programs that only compute: compute KIND COUNT.  Each prints a checksum of all that it did. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NODES = 400, MATRIX = 24, TEXT = 512, ITEMS = 20000, BUCKETS = 1 << 12, LIMIT = 200000, SAMPLES = 4096 };

static uint32_t state = 1;

static uint32_t next_random(void) {
    state = state * 1664525 + 1013904223;
    return state >> 8;
}

/* ---- like CoreMark: a list, a matrix, a state machine, a CRC ---- */

struct node {
    struct node *next;
    int32_t value;
};

static struct node *reverse(struct node *list) {
    struct node *reversed = NULL;
    while (list) {
        struct node *rest = list->next;
        list->next = reversed;
        reversed = list;
        list = rest;
    }
    return reversed;
}

static uint32_t walk_list(struct node *list, int32_t wanted) {
    uint32_t steps = 0;
    for (; list && list->value != wanted; list = list->next) {
        steps++;
    }
    return steps;
}

static uint32_t multiply(void) {
    static int16_t a[MATRIX][MATRIX], b[MATRIX][MATRIX];
    static int32_t product[MATRIX][MATRIX];
    uint32_t sum = 0;
    for (int i = 0; i < MATRIX; i++) {
        for (int j = 0; j < MATRIX; j++) {
            a[i][j] = (int16_t)(i * 7 + j + (int)state % 3), b[i][j] = (int16_t)(i - j * 3);
        }
    }
    memset(product, 0, sizeof product);
    for (int i = 0; i < MATRIX; i++) {
        for (int k = 0; k < MATRIX; k++) {
            for (int j = 0; j < MATRIX; j++) {
                product[i][j] += a[i][k] * b[k][j];
            }
        }
    }
    for (int i = 0; i < MATRIX; i++) {
        sum += (uint32_t)product[i][MATRIX - 1 - i];
    }
    return sum;
}

/* Numbers in a text: integers, fractions, and what is neither. */
static uint32_t scan(const char *text) {
    enum { START, INTEGER, FRACTION, OTHER } at = START;
    uint32_t counts[4] = {0};
    for (; *text; text++) {
        switch (*text) {
        case '0' ... '9': at = at == START ? INTEGER : at; break;
        case '.': at = at == INTEGER || at == START ? FRACTION : OTHER; break;
        case ',': counts[at]++, at = START; break;
        default: at = OTHER;
        }
    }
    return counts[INTEGER] + counts[FRACTION] * 31 + counts[OTHER] * 961;
}

static uint16_t crc(uint16_t sum, uint32_t value) {
    for (int bit = 0; bit < 32; bit++, value >>= 1) {
        uint32_t carry = (sum ^ value) & 1;
        sum = (uint16_t)(sum >> 1 ^ (carry ? 0xa001 : 0));
    }
    return sum;
}

static uint32_t mix(long count) {
    static struct node nodes[NODES];
    static char text[TEXT + 1];
    struct node *list = NULL;
    uint16_t sum = 0;
    for (int n = 0; n < NODES; n++) {
        nodes[n] = (struct node){list, n};
        list = &nodes[n];
    }
    for (int n = 0; n < TEXT; n++) {
        text[n] = "0123456789.,,,x-"[next_random() % 16];
    }
    for (long n = 0; n < count; n++) {
        list = reverse(list);
        sum = crc(sum, walk_list(list, (int32_t)(next_random() % NODES)));
        sum = crc(sum, multiply());
        text[next_random() % TEXT] = '7';
        sum = crc(sum, scan(text));
    }
    return sum;
}

/* ---- others ---- */

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t sort(long count) {
    static uint32_t items[ITEMS];
    uint32_t sum = 0;
    for (long n = 0; n < count; n++) {
        for (int k = 0; k < ITEMS; k++) {
            items[k] = next_random();
        }
        qsort(items, ITEMS, sizeof items[0], compare);
        sum = sum * 31 + items[ITEMS / 2];
    }
    return sum;
}

static uint32_t hash(long count) {
    static struct {
        uint32_t key, times;
    } buckets[BUCKETS];
    uint32_t sum = 0;
    for (long n = 0; n < count; n++) {
        uint32_t key = next_random() % (BUCKETS / 2) + 1, at = key * 2654435761u % BUCKETS;
        while (buckets[at].key && buckets[at].key != key) {
            at = (at + 1) % BUCKETS;
        }
        buckets[at].key = key;
        sum += ++buckets[at].times ^ at;
    }
    return sum;
}

static uint32_t sieve(long count) {
    static uint8_t composite[LIMIT];
    uint32_t primes = 0;
    for (long n = 0; n < count; n++) {
        memset(composite, 0, sizeof composite);
        for (uint32_t p = 2; p < LIMIT; p++) {
            primes += !composite[p];
            for (uint64_t k = (uint64_t)p * p; !composite[p] && k < LIMIT; k += p) {
                composite[k] = 1;
            }
        }
    }
    return primes;
}

static uint32_t filter(long count) {
    static float x[SAMPLES], y[SAMPLES];
    for (int k = 0; k < SAMPLES; k++) {
        x[k] = 1.0f + (float)k / SAMPLES, y[k] = 0.5f;
    }
    for (long n = 0; n < count; n++) {
        for (int k = 0; k < SAMPLES; k++) {
            y[k] = y[k] * 0.99f + x[k] * 0.25f;
        }
    }
    return (uint32_t)(y[SAMPLES / 2] * 1000.0f);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        uint32_t (*run)(long count);
    } kinds[] = {{"mix", mix}, {"sort", sort}, {"hash", hash}, {"sieve", sieve}, {"filter", filter}};
    for (unsigned n = 0; argc == 3 && n < sizeof kinds / sizeof kinds[0]; n++) {
        if (strcmp(argv[1], kinds[n].name) == 0) {
            printf("%u\n", kinds[n].run(atol(argv[2])));
            return 0;
        }
    }
    return 2;
}
