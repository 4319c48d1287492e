/*
 * The guest agent: serves the host's requests through a port of a virtio console, as far as the guest allows it.
 *
 *   pyvmm-agent exec|attest|off [FD]     serve the port, or the open descriptor FD
 *   pyvmm-agent secret SERVER NAME       get a secret from a key broker (secret.c)
 *   pyvmm-agent connect|listen ...       streams (socket.c)
 *   init                                 as the first process: run the program in /.pyvmm/entrypoint, then power off
 *
 * No C library and no memory allocation: one small static file for any root file system.
 */
#include "secret.h"

#define PORTS "/sys/class/virtio-ports"
#define PORT_NAME "org.pyvmm.agent.0\n"

/* Shows a test that the binary was made from these sources. */
__attribute__((used)) static const char source_digest[] = "source digest " SOURCE_DIGEST;

/* The compiler may call these even without a library; volatile keeps it from calling them here. */
typedef uint64_t __attribute__((aligned(1), may_alias)) any_word;

void *memcpy(void *to, const void *from, size_t size) {
    size_t n = 0;
    for (; n + 2 * sizeof(any_word) <= size; n += 2 * sizeof(any_word)) {
        any_word first = *(const any_word *)((const char *)from + n);
        any_word second = *(const any_word *)((const char *)from + n + sizeof first);
        *(volatile any_word *)((char *)to + n) = first;
        *(volatile any_word *)((char *)to + n + sizeof first) = second;
    }
    for (; n < size; n++)
        ((volatile char *)to)[n] = ((const char *)from)[n];
    return to;
}
void *memmove(void *to, const void *from, size_t size) {
    if ((uintptr_t)to <= (uintptr_t)from) /* what is overwritten has been read */
        return memcpy(to, from, size);
    while (size-- > 0)
        ((volatile char *)to)[size] = ((const char *)from)[size];
    return to;
}
void *memset(void *to, int value, size_t size) {
    for (size_t n = 0; n < size; n++)
        ((volatile char *)to)[n] = (char)value;
    return to;
}

const char *error_text(int error) {
    switch (error) {
    case ENOENT: return "no such file or directory, or its interpreter is missing";
    case EACCES: return "permission denied";
    case ENOEXEC: return "not a program for this machine";
    case ENOMEM: return "not enough memory";
    case ENOTDIR: return "not a directory";
    case E2BIG: return "argument list too long";
    case EROFS: return "read-only file system";
    case ENODEV: return "not supported by this kernel";
    case ECONNREFUSED: return "connection refused";
    case ECONNRESET: return "connection reset";
    case EIO: return "input/output error";
    }
    static char text[20];
    text[0] = 0;
    text_append(text, sizeof text, "error ");
    text_append_number(text, sizeof text, (unsigned)error);
    return text;
}

static const char *own_name = "pyvmm-agent";

void complain(const char *what, const char *why) {
    char line[512] = "";
    text_append(line, sizeof line - 1, own_name);
    text_append(line, sizeof line - 1, ": ");
    text_append(line, sizeof line - 160, what); // the rest is for the reason
    text_append(line, sizeof line - 1, ": ");
    text_append(line, sizeof line - 1, why);
    text_append(line, sizeof line, "\n");
    sys_write(2, line, text_size(line));
}

size_t read_file(const char *path, char *data, size_t size) {
    int fd = sys_open(path, O_RDONLY);
    size_t total = 0;
    long more;
    if (fd < 0)
        return 0;
    while (total < size && (more = sys_read(fd, data + total, size - total)) > 0)
        total += (size_t)more;
    sys_close(fd);
    return total;
}

/* ---- abilities ---- */

unsigned parse_abilities(const char *word, unsigned otherwise) {
    static const struct {
        const char *word;
        unsigned abilities;
    } words[] = {{"off", 0}, {"attest", CAN_ATTEST}, {"exec", CAN_ATTEST | CAN_EXEC | CAN_TERMINAL}};
    for (size_t n = 0; n < sizeof words / sizeof *words; n++)
        if (text_equal(word, words[n].word))
            return words[n].abilities;
    return otherwise;
}

/* returns what the kernel's command line allows (nothing for an unknown word), or `otherwise` without pyvmm.agent=. */
static unsigned allowed(unsigned otherwise) {
    static char line[4096];
    static const char name[] = "pyvmm.agent=";
    size_t size = read_file("/proc/cmdline", line, sizeof line - 1);
    for (size_t n = 0; n < size; n++)
        if (line[n] == ' ' || line[n] == '\n')
            line[n] = 0;
    for (size_t at = 0; at < size; at += text_size(line + at) + 1)
        if (text_starts(line + at, name))
            return parse_abilities(line + at + sizeof name - 1, 0);
    return otherwise;
}

/* ---- the port ---- */

struct directory_entry { /* linux_dirent64 */
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

/* Opens the port if it is the agent's; returns its descriptor or an error. */
static int open_port(const char *name) {
    char path[320] = PORTS "/", text[64] = "";
    text_append(path, sizeof path, name);
    text_append(path, sizeof path, "/name");
    text[read_file(path, text, sizeof text - 1)] = 0;
    if (!text_equal(text, PORT_NAME))
        return -ENOENT;
    path[0] = 0;
    text_append(path, sizeof path, "/dev/");
    text_append(path, sizeof path, name);
    return sys_open(path, O_RDWR);
}

static int find_port(void) {
    static _Alignas(8) char entries[4096];
    int directory = sys_open(PORTS, O_RDONLY | O_DIRECTORY), port = -ENOENT;
    long size = directory < 0 ? 0 : sys_getdents(directory, entries, sizeof entries);
    for (long at = 0; at < size && port < 0;) {
        struct directory_entry *entry = (struct directory_entry *)(entries + at);
        if (entry->name[0] != '.')
            port = open_port(entry->name);
        at += entry->size;
    }
    sys_close(directory);
    return port;
}

/* Waits for the port and opens it; returns its descriptor, or an error if the entry point ended before. */
static int wait_for_port(int ended) {
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int events = (int)SYSCALL(socket, AF_NETLINK, SOCK_DGRAM | O_CLOEXEC, NETLINK_KOBJECT_UEVENT, 0, 0);
    SYSCALL(bind, events, &address, sizeof address, 0, 0);
    int port;
    while ((port = find_port()) < 0) { /* after the bind: no event is missed */
        struct pollfd fds[] = {{.fd = events, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
        static char event[4096];
        if (sys_poll(fds, 2) > 0 && fds[1].revents)
            break;
        if (fds[0].revents)
            sys_read(events, event, sizeof event);
    }
    sys_close(events);
    return port;
}

_Noreturn void run_agent(int port, int ended, unsigned abilities, char **env) {
    abilities = allowed(abilities);
    if (!abilities)
        sys_exit(0);
    if (port >= 0) {
        serve(port, ended, abilities, env);
        sys_exit(0);
    }
    while ((port = wait_for_port(ended)) >= 0 && serve(port, ended, abilities, env)) {
        sys_close(port);
        sys_sleep(1); /* the host hung up: no event reports when it is back */
    }
    sys_exit(0);
}

/* ---- the start ---- */

__asm__(".globl _start\n"
        "_start:\n"
#if defined(__aarch64__)
        "mov x0, sp\n"
        "and sp, x0, #-16\n"
        "bl start\n"
#else
        "mov %rsp, %rdi\n"
        "and $-16, %rsp\n"
        "call start\n"
#endif
);

/* Gets the stack from the kernel: the number of arguments, the arguments, NULL, the environment, NULL. */
__attribute__((used)) _Noreturn void start(long *stack) {
    long count = stack[0];
    char **argv = (char **)(stack + 1), **env = argv + count + 1;
    static char *defaults[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                               "TERM=linux", NULL};
    if (sys_getpid() == 1) {
        own_name = "pyvmm-init";
        run_init(defaults);
    }
    if (count == 4 && text_equal(argv[1], "secret"))
        run_secret(argv[2], argv[3]);
    if (count == 3 && text_equal(argv[1], "connect"))
        run_connect(argv[2]);
    if (count >= 4 && text_equal(argv[1], "listen"))
        run_listen(argv[2], argv + 3, env);
    unsigned abilities = count > 1 ? parse_abilities(argv[1], ~0u) : ~0u;
    if (abilities == ~0u) {
        complain("usage", "pyvmm-agent exec|attest|off [FD] | secret SERVER NAME | connect SERVER | listen PORT PROGRAM");
        sys_exit(2);
    }
    int port = count > 2 ? argv[2][0] - '0' : -1;
    run_agent(port, -1, abilities, find_variable(env, "PATH") ? env : defaults);
}
