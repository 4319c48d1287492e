/* What the agent does for programs in its guest: `secret`, `connect`, `listen`. */
#ifndef SECRET_H
#define SECRET_H

#include "agent.h"
#include "crypto.h"

/* Texts end with a zero byte; a function that can fail returns false, or NULL, and changes nothing that matters. */

/* ---- text.c ---- */

/* Appends base64url without padding. */
void append_base64(char *text, size_t size, const uint8_t *data, size_t data_size);
/* Decodes base64url; returns false if it is malformed or does not fit. */
bool decode_base64(const char *text, uint8_t *data, size_t size, size_t *decoded);
/* Copies a member of a JSON object whose value is a text without escapes. */
bool find_member(const char *json, const char *name, char *value, size_t size);
/* returns whether a text has only letters, digits and some other characters that need no quotes. */
bool is_plain(const char *text, const char *others);

/* Reads a number and moves on; returns false if there is none below the limit. */
bool read_number(const char **text, uint64_t limit, uint32_t *number);

/* ---- socket.c ---- */

/* Connects to vsock:CID:PORT or IP:PORT; returns a socket, or an error: -EINVAL for another text. */
int connect_to(const char *server);
bool write_all(int fd, const void *data, size_t size);
_Noreturn void run_connect(const char *server);
_Noreturn void run_listen(const char *port, char **argv, char **env);

/* ---- http.c ---- */

struct response {
    unsigned status;
    char *headers, *body;
};

/* Sends a request to vsock:CID:PORT or IP:PORT. The response lies in memory that the next one overwrites. Complains. */
bool exchange(const char *server, const char *request, struct response *response);

/* ---- secret.c ---- */

/* Requests a secret from a key broker and writes it to standard output. */
_Noreturn void run_secret(const char *server, const char *name);

#endif
