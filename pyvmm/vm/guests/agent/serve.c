/*
 * Serves the port: one loop, no threads; requests are handled as they arrive, without waiting.
 */
#include "channel.h"

enum { MAX_STRINGS = 8192 };

/* ---- requests ---- */

/* Splits a request into strings: the directory, arguments, variables; returns false if their number is wrong. */
static bool split_strings(char *data, size_t size, unsigned num_args, unsigned num_variables, char **strings) {
    unsigned count = 0, wanted = 1 + num_args + num_variables;
    if (!num_args || wanted + 2 > MAX_STRINGS || !size || data[size - 1])
        return false;
    for (size_t at = 0; at < size; at += text_size(data + at) + 1) {
        if (count == wanted)
            return false;
        /* One slot after the arguments and one after the variables is left for the NULL that ends each list. */
        strings[count + (count > num_args)] = data + at;
        count++;
    }
    return count == wanted;
}

/* The channel whose next process gets a terminal, and its size; 0: none. */
static uint32_t terminal_id;
static struct terminal_size terminal_size;

static void handle_exec(uint32_t id, uint8_t *payload, size_t size, char **env) {
    static char *strings[MAX_STRINGS];
    uint16_t counts[2];
    if (size < sizeof counts) {
        send_number(REFUSED, id, MALFORMED);
        return;
    }
    __builtin_memcpy(counts, payload, sizeof counts);
    char **argv = strings + 1, **variables = argv + counts[0] + 1;
    if (!split_strings((char *)payload + sizeof counts, size - sizeof counts, counts[0], counts[1], strings)) {
        send_number(REFUSED, id, MALFORMED);
        return;
    }
    argv[counts[0]] = NULL;
    unsigned count = counts[1]; /* the process inherits from us what the request does not set */
    variables[count] = NULL;
    for (; *env && variables + count + 1 < strings + MAX_STRINGS; env++) {
        char name[64] = "";
        for (size_t n = 0; n + 1 < sizeof name && (*env)[n] && (*env)[n] != '='; n++)
            name[n] = (*env)[n], name[n + 1] = 0;
        if (!find_variable(variables, name))
            variables[count++] = *env, variables[count] = NULL;
    }
    bool has_terminal = terminal_id == id;
    terminal_id = 0;
    if (start_process(id, has_terminal ? &terminal_size : NULL) == 0)
        run_program(strings[0], argv, variables);
}

static void handle_input(struct channel *c, const uint8_t *payload, size_t size) {
    if (!take_input(c, payload, size)) /* more than was granted: the host breaks the protocol */
        signal_channel(c, SIGKILL);
}

static void handle_grant(struct channel *c, uint32_t number) {
    c->granted = number > UINT32_MAX - c->granted ? UINT32_MAX : c->granted + number;
    if (c->has_exited)
        finish(c);
}

static void handle(const struct header *header, uint8_t *payload, unsigned abilities, char **env) {
    uint32_t id = header->channel, number = 0;
    struct channel *c = id ? find_channel(id) : NULL;
    if (header->size >= sizeof number)
        __builtin_memcpy(&number, payload, sizeof number);
    if (header->type == PING)
        send(PONG, id, payload, header->size);
    else if (header->type == EXEC || header->type == ATTEST) {
        unsigned needed = header->type == EXEC ? CAN_EXEC : CAN_ATTEST;
        if (!id || c || (header->type == ATTEST && header->size != CHALLENGE_SIZE))
            send_number(REFUSED, id, MALFORMED);
        else if (!(abilities & needed))
            send_number(REFUSED, id, NOT_ALLOWED);
        else if (header->type == EXEC)
            handle_exec(id, payload, header->size, env);
        else if (start_process(id, NULL) == 0)
            run_attestation(payload);
    } else if (c && header->type == STDIN)
        handle_input(c, payload, header->size);
    else if (c && header->type == SIGNAL && number <= 64)
        signal_channel(c, (int)number);
    else if (c && header->type == GRANT)
        handle_grant(c, number);
    else if (id && header->type == TERMINAL && header->size == sizeof terminal_size) {
        struct terminal_size size;
        __builtin_memcpy(&size, payload, sizeof size);
        if (c)
            resize_terminal(c, size);
        else
            terminal_id = id, terminal_size = size;
    }
}

/* Reads from the port and handles every complete frame; returns false when the port is closed. */
static bool receive(int port, unsigned abilities, char **env) {
    static uint8_t data[FRAME_SIZE];
    static size_t size;
    long more = sys_read(port, data + size, sizeof data - size);
    if (more == -EINTR)
        return true;
    if (more <= 0) {
        size = 0;
        return false;
    }
    size += (size_t)more;
    size_t at = 0;
    struct header header;
    while (size - at >= sizeof header) {
        __builtin_memcpy(&header, data + at, sizeof header);
        if (size - at - sizeof header < header.size)
            break;
        handle(&header, data + at + sizeof header, abilities, env);
        at += sizeof header + header.size;
    }
    size -= at;
    __builtin_memmove(data, data + at, size);
    return true;
}

/* ---- the loop ---- */

enum { POLL_PORT, POLL_CHILDREN, POLL_ENDED, NUM_FIXED };

static void watch(struct channel *c, struct pollfd fds[3]) {
    bool may_send = c->granted && !c->has_exited;
    fds[0] = (struct pollfd){.fd = c->input_size ? c->in : -1, .events = POLLOUT};
    fds[1] = (struct pollfd){.fd = may_send ? c->out : -1, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = may_send ? c->err : -1, .events = POLLIN};
}

static void handle_events(struct channel *c, const struct pollfd fds[3]) {
    if (fds[0].revents)
        feed(c);
    if (fds[1].revents)
        forward(c, &c->out, STDOUT);
    if (fds[2].revents)
        forward(c, &c->err, STDERR);
}

bool serve(int port, int ended, unsigned abilities, char **env) {
    static struct pollfd fds[NUM_FIXED + 3 * NUM_CHANNELS];
    static struct channel *watched[NUM_CHANNELS];
    bool has_ended = false;
    set_port(port);
    uint64_t signals = SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGPIPE);
    sys_set_blocked_signals(signals);
    int children = sys_signalfd(SIGNAL_BIT(SIGCHLD));
    uint16_t hello[] = {PROTOCOL_VERSION, (uint16_t)abilities, NUM_CHANNELS};
    send(HELLO, 0, hello, sizeof hello);
    while (is_connected() && !has_ended) {
        fds[POLL_PORT] = (struct pollfd){.fd = port, .events = POLLIN};
        fds[POLL_CHILDREN] = (struct pollfd){.fd = children, .events = POLLIN};
        fds[POLL_ENDED] = (struct pollfd){.fd = ended, .events = POLLIN};
        unsigned count = 0;
        for (struct channel *c = channels; c < channels + NUM_CHANNELS; c++)
            if (c->id) {
                watch(c, fds + NUM_FIXED + 3 * count);
                watched[count++] = c;
            }
        if (sys_poll(fds, NUM_FIXED + 3 * count) < 0)
            continue;
        for (unsigned n = 0; n < count; n++)
            handle_events(watched[n], fds + NUM_FIXED + 3 * n);
        struct signalfd_siginfo signal;
        if (fds[POLL_CHILDREN].revents && sys_read(children, &signal, sizeof signal) > 0)
            reap();
        int status;
        has_ended = fds[POLL_ENDED].revents;
        if (has_ended && sys_read(ended, &status, sizeof status) == sizeof status)
            send_status(ENDED, 0, status);
        if (fds[POLL_PORT].revents && !receive(port, abilities, env))
            break;
    }
    sys_close(children);
    drop_all();
    return !has_ended;
}
