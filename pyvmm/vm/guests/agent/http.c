/* One HTTP exchange for each connection: HTTP/1.0, whose responses end with the connection. */
#include "secret.h"

enum { MAX_RESPONSE = 256 << 10 };

/* Splits a response at its empty line; returns false if it is no response. */
static bool parse(char *text, struct response *response) {
    if (!text_starts(text, "HTTP/1.") || text_size(text) < 12)
        return false;
    const char *status = text + 9;
    response->headers = text;
    for (; *text; text++)
        if (text_starts(text, "\r\n\r\n")) {
            *text = 0;
            response->body = text + 4;
            return read_number(&status, 1000, &response->status);
        }
    return false;
}

bool exchange(const char *server, const char *request, struct response *response) {
    static char text[MAX_RESPONSE + 1];
    int fd = connect_to(server);
    if (fd < 0) {
        complain(server, fd == -EINVAL ? "give vsock:CID:PORT or IP:PORT" : error_text(-fd));
        return false;
    }
    size_t total = 0;
    long size = -1;
    if (write_all(fd, request, text_size(request)))
        while ((size = sys_read(fd, text + total, MAX_RESPONSE - total)) > 0)
            total += (size_t)size;
    sys_close(fd);
    text[total] = 0;
    if (size == 0 && total < MAX_RESPONSE && parse(text, response))
        return true;
    complain(server, size < 0 ? error_text((int)-size) : "no HTTP response, or a response that is too large");
    return false;
}
