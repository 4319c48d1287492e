/* qsort, bsearch, a heap, a tree: pointers, indirect calls and unpredictable branches. */
#include <stdlib.h>

#include "check.h"

struct record {
    uint32_t key;
    char name[11];
    double weight;
};

static int by_key(const void *a, const void *b) {
    const struct record *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : strcmp(x->name, y->name);
}

static int by_weight(const void *a, const void *b) {
    const struct record *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight ? -1 : 1) : by_key(a, b);
}

static uint64_t sum_records(const struct record *records, unsigned count) {
    uint64_t sum = SUM_START;
    for (unsigned k = 0; k < count; k++) {
        sum = add_double(add_bytes(add_word(sum, records[k].key), records[k].name, 11), records[k].weight);
    }
    return sum;
}

static void sort_records(unsigned count) {
    struct record *records = calloc(count, sizeof *records);
    uint64_t seed = count;
    for (unsigned k = 0; k < count; k++) {
        records[k].key = (uint32_t)next_random(&seed) % (count / 2 + 1);
        snprintf(records[k].name, sizeof records[k].name, "n%u", (unsigned)next_random(&seed) % 1000);
        records[k].weight = (double)(int64_t)next_random(&seed) * 0x1p-60;
    }
    qsort(records, count, sizeof *records, by_key);
    uint64_t sum = sum_records(records, count);
    unsigned found = 0;
    for (uint32_t key = 0; key < count; key++) {
        struct record *at = bsearch(&(struct record){.key = key, .name = "n7"}, records, count, sizeof *records, by_key);
        found += at != NULL;
    }
    qsort(records, count, sizeof *records, by_weight);
    printf("%5u records %016" PRIx64 " %016" PRIx64 " found %u\n", count, sum, sum_records(records, count), found);
    free(records);
}

static void heap_sort(unsigned count) {
    uint32_t *heap = malloc(count * sizeof *heap);
    uint64_t seed = 5, sum = SUM_START;
    for (unsigned k = 0; k < count; k++) {
        unsigned at = k;
        heap[k] = (uint32_t)next_random(&seed);
        for (; at && heap[(at - 1) / 2] > heap[at]; at = (at - 1) / 2) {
            uint32_t held = heap[at];
            heap[at] = heap[(at - 1) / 2], heap[(at - 1) / 2] = held;
        }
    }
    for (unsigned left = count; left; left--) {
        sum = add_word(sum, heap[0]);
        uint32_t held = heap[left - 1];
        unsigned at = 0;
        for (unsigned child; (child = 2 * at + 1) < left; at = child) {
            child += child + 1 < left && heap[child + 1] < heap[child];
            if (heap[child] >= held) {
                break;
            }
            heap[at] = heap[child];
        }
        heap[at] = held;
    }
    show_sum("heap", sum);
    free(heap);
}

struct node {
    struct node *child[2];
    uint64_t value;
};

static unsigned depth(const struct node *node) {
    unsigned a = node ? depth(node->child[0]) : 0, b = node ? depth(node->child[1]) : 0;
    return node ? 1 + (a > b ? a : b) : 0;
}

static uint64_t walk_and_free(struct node *node, uint64_t sum) {
    if (node) {
        sum = walk_and_free(node->child[0], sum);
        sum = add_word(sum, node->value);
        sum = walk_and_free(node->child[1], sum);
        free(node);
    }
    return sum;
}

static void tree(unsigned count) {
    struct node *root = NULL;
    uint64_t seed = 6;
    for (unsigned k = 0; k < count; k++) {
        uint64_t value = next_random(&seed);
        struct node **at = &root;
        while (*at) {
            at = &(*at)->child[value > (*at)->value];
        }
        *at = calloc(1, sizeof **at);
        (*at)->value = value;
    }
    printf("tree depth %u sum %016" PRIx64 "\n", depth(root), walk_and_free(root, SUM_START));
}

int main(void) {
    sort_records(10);
    sort_records(1000);
    sort_records(5000);
    heap_sort(5000);
    tree(5000);
    return 0;
}
