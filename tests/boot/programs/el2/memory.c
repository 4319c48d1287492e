// What the compiler itself calls.
#include <stddef.h>

void *memset(void *to, int value, size_t size) {
    for (size_t n = 0; n < size; n++) {
        ((volatile char *)to)[n] = (char)value;
    }
    return to;
}

void *memcpy(void *to, const void *from, size_t size) {
    for (size_t n = 0; n < size; n++) {
        ((volatile char *)to)[n] = ((const char *)from)[n];
    }
    return to;
}
