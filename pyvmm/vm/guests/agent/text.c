/* Text in the messages of a key broker. The broker's answers pass through the host, so they can be anything. */
#include "secret.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void append_base64(char *text, size_t size, const uint8_t *data, size_t data_size) {
    size_t at = text_size(text);
    for (size_t bit = 0; bit < 8 * data_size && at + 1 < size; bit += 6) {
        unsigned pair = (unsigned)data[bit / 8] << 8 | (bit / 8 + 1 < data_size ? data[bit / 8 + 1] : 0);
        text[at++] = digits[pair >> (10 - bit % 8) & 63];
    }
    text[at] = 0;
}

/* returns the value of a digit, or -1; without a table, because keys are text, too. */
static int value_of(char c) {
    int value = -1;
    value += ((unsigned)c - 'A' < 26) * (c - 'A' + 1);
    value += ((unsigned)c - 'a' < 26) * (c - 'a' + 27);
    value += ((unsigned)c - '0' < 10) * (c - '0' + 53);
    return value + (c == '-') * 63 + (c == '_') * 64;
}

bool decode_base64(const char *text, uint8_t *data, size_t size, size_t *decoded) {
    size_t length = text_size(text), count = length * 6 / 8;
    unsigned bits = 0;
    if (length % 4 == 1 || count > size)
        return false;
    for (size_t n = 0, at = 0; n < length; n++) {
        int value = value_of(text[n]);
        if (value < 0)
            return false;
        bits = bits << 6 | (unsigned)value;
        if (n % 4)
            data[at++] = (uint8_t)(bits >> (6 - 2 * (n % 4)));
    }
    *decoded = count;
    return true;
}

/* returns what follows a name and a colon, or NULL. */
static const char *after_name(const char *json, const char *name) {
    size_t size = text_size(name);
    for (; *json; json++) {
        if (*json != '"' || !text_starts(json + 1, name) || json[size + 1] != '"')
            continue;
        const char *rest = json + size + 2;
        while (*rest == ' ')
            rest++;
        if (*rest == ':')
            return rest + 1;
    }
    return NULL;
}

bool find_member(const char *json, const char *name, char *value, size_t size) {
    const char *text = after_name(json, name);
    if (!text)
        return false;
    while (*text == ' ')
        text++;
    if (*text++ != '"')
        return false;
    size_t at = 0;
    for (; *text >= ' ' && *text != '"' && *text != '\\' && at + 1 < size; text++)
        value[at++] = *text;
    value[at] = 0;
    return *text == '"';
}

bool is_plain(const char *text, const char *others) {
    for (; *text; text++) {
        bool is_other = false;
        for (const char *c = others; *c; c++)
            is_other |= *text == *c;
        if (!is_other && value_of(*text) < 0)
            return false;
    }
    return true;
}

bool read_number(const char **text, uint64_t limit, uint32_t *number) {
    uint64_t value = 0;
    const char *start = *text;
    while (**text >= '0' && **text <= '9' && value < limit)
        value = value * 10 + (uint64_t)(*(*text)++ - '0');
    *number = (uint32_t)value;
    return *text != start && value < limit;
}
