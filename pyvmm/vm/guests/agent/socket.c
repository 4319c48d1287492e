/*
 * Streams to other machines: a socket for each connection.
 *
 *   pyvmm-agent connect SERVER               join standard input and output to vsock:CID:PORT or IP:PORT
 *   pyvmm-agent listen PORT PROGRAM [ARG]    run a program for each connection to a vsock port
 */
#include "secret.h"

enum { SOCK_STREAM = 1, AF_VSOCK = 40, SHUT_WR = 1, MAX_CHILDREN = 64 };
#define ANY_CID 0xffffffffu

/* The kernel's headers declare these only together with a C library. */
union address {
    struct sockaddr_in {
        uint16_t family, port; /* the port is big-endian */
        uint8_t address[4], unused[8];
    } internet;
    struct sockaddr_vm {
        uint16_t family, reserved;
        uint32_t port, cid;
        uint8_t unused[4];
    } vsock;
};

static bool skip(const char **text, char c) {
    bool is_there = **text == c;
    *text += is_there;
    return is_there;
}

static bool parse_vsock(const char *text, struct sockaddr_vm *address) {
    uint32_t cid, port;
    if (!read_number(&text, 1ull << 32, &cid) || !skip(&text, ':') || !read_number(&text, 1ull << 32, &port))
        return false;
    *address = (struct sockaddr_vm){.family = AF_VSOCK, .cid = cid, .port = port};
    return !*text;
}

static bool parse_internet(const char *text, struct sockaddr_in *address) {
    uint32_t number;
    *address = (struct sockaddr_in){.family = AF_INET};
    for (unsigned n = 0; n < 4; n++) {
        if (!read_number(&text, 256, &number) || !skip(&text, n < 3 ? '.' : ':'))
            return false;
        address->address[n] = (uint8_t)number;
    }
    if (!read_number(&text, 1 << 16, &number))
        return false;
    address->port = __builtin_bswap16((uint16_t)number);
    return !*text;
}

int connect_to(const char *server) {
    union address address = {0};
    bool is_vsock = text_starts(server, "vsock:");
    if (is_vsock ? !parse_vsock(server + 6, &address.vsock) : !parse_internet(server, &address.internet))
        return -EINVAL;
    int fd = (int)SYSCALL(socket, is_vsock ? AF_VSOCK : AF_INET, SOCK_STREAM | O_CLOEXEC, 0, 0, 0);
    if (fd < 0)
        return fd;
    int error = (int)SYSCALL(connect, fd, &address, is_vsock ? sizeof address.vsock : sizeof address.internet, 0, 0);
    if (error < 0)
        sys_close(fd);
    return error < 0 ? error : fd;
}


/* Writes all data; returns false if that fails. */
bool write_all(int fd, const void *data, size_t size) {
    for (long done; size; data = (const char *)data + done, size -= (size_t)done)
        if ((done = sys_write(fd, data, size)) <= 0)
            return false;
    return true;
}

/* Passes on what is there; returns false at the end. */
static bool pass(int from, int to) {
    static char data[1 << 16];
    long size = sys_read(from, data, sizeof data);
    return size > 0 && write_all(to, data, (size_t)size);
}

_Noreturn void run_connect(const char *server) {
    int fd = connect_to(server);
    if (fd < 0) {
        complain(server, fd == -EINVAL ? "give vsock:CID:PORT or IP:PORT" : error_text(-fd));
        sys_exit(fd == -EINVAL ? 2 : 1);
    }
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    while (sys_poll(fds, 2) > 0) {
        if (fds[0].revents && !pass(fd, 1))
            sys_exit(0);
        if (fds[1].revents && !pass(0, fd)) {
            SYSCALL(shutdown, fd, SHUT_WR, 0, 0, 0);
            fds[1].fd = -1; /* poll ignores it */
        }
    }
    sys_exit(1);
}

/* Waits for children that have ended, and, at the limit, for one more; returns how many are left. */
static unsigned reap(unsigned children) {
    int status;
    while (children && sys_wait(-1, &status, children < MAX_CHILDREN ? WNOHANG : 0) > 0)
        children--;
    return children;
}

_Noreturn void run_listen(const char *port, char **argv, char **env) {
    struct sockaddr_vm address = {.family = AF_VSOCK, .cid = ANY_CID};
    const char *text = port;
    if (!read_number(&text, 1ull << 32, &address.port) || *text) {
        complain(port, "give a vsock port");
        sys_exit(2);
    }
    int listener = (int)SYSCALL(socket, AF_VSOCK, SOCK_STREAM | O_CLOEXEC, 0, 0, 0);
    int error = listener < 0 ? listener : (int)SYSCALL(bind, listener, &address, sizeof address, 0, 0);
    if (error >= 0)
        error = (int)SYSCALL(listen, listener, MAX_CHILDREN, 0, 0, 0);
    if (error < 0) {
        complain(port, error_text(-error));
        sys_exit(1);
    }
    for (unsigned children = 0;; children = reap(children)) {
        int fd = (int)SYSCALL(accept4, listener, 0, 0, O_CLOEXEC, 0);
        if (fd < 0)
            continue;
        int child = sys_fork();
        if (child == 0) {
            sys_dup_to(fd, 0);
            sys_dup_to(fd, 1);
            run_program("", argv, env);
        }
        children += child > 0;
        sys_close(fd);
    }
}
