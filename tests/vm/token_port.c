/* In place of the kernel's reports: sends the challenge to the test through descriptor 3, and gets a token back. */
#include "agent.h"

const char *get_report(const uint8_t *challenge, uint8_t *data, size_t size, size_t *total) {
    long more;
    sys_write(3, challenge, CHALLENGE_SIZE);
    for (*total = 0; *total < size && (more = sys_read(3, data + *total, size - *total)) > 0; *total += (size_t)more)
        ;
    return *total ? NULL : "the test sent no token";
}
