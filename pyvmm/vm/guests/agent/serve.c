/*
 * Serving the port: frames in, frames out, and the processes that they are about.
 *
 * One loop, no thread.  Each process has a channel with three pipes.  What it writes is read only as far as the host has
 * granted, what it does not read waits in its channel's buffer, as much as the host was granted: so nobody waits for
 * another's slowness, and the port is read and written at once.
 */
#include "agent.h"

enum {
    NUM_CHANNELS = 64,
    INPUT_SIZE = 16384, /* what a channel keeps for a process that does not read */
    OUTPUT_SIZE = 16384,
    FRAME_SIZE = sizeof(struct header) + UINT16_MAX,
    MAX_STRINGS = 8192,
    /* What a process leaves in its pipes when it ends; what others write into them then may have no end. */
    LEFT_OVER = 2 * 65536,
};

struct channel {
    uint32_t id; /* 0: free */
    int pid;
    int in, out, err; /* our ends of the pipes; -1: closed */
    bool is_input_ended, has_exited;
    int status;
    uint32_t granted; /* bytes of output that may be sent */
    int left_over;
    uint32_t input_size;
    uint8_t input[INPUT_SIZE];
};

static struct channel channels[NUM_CHANNELS];
static int port_fd;
static bool is_port_open;

/* ---- frames ---- */

static void write_port(const uint8_t *data, size_t size) {
    while (size && is_port_open) {
        long done = sys_write(port_fd, data, size);
        if (done < 0 && done != -EINTR)
            is_port_open = false;
        if (done > 0)
            data += done, size -= (size_t)done;
    }
}

/* A frame is one write, so that the host gets it in one piece. */
static void send(enum reply type, uint32_t channel, const void *payload, size_t size) {
    static uint8_t frame[FRAME_SIZE];
    struct header header = {.channel = channel, .type = (uint16_t)type, .size = (uint16_t)size};
    __builtin_memcpy(frame, &header, sizeof header);
    __builtin_memcpy(frame + sizeof header, payload, size);
    write_port(frame, sizeof header + size);
}

static void send_number(enum reply type, uint32_t channel, uint32_t number) {
    send(type, channel, &number, sizeof number);
}

static void send_status(enum reply type, uint32_t channel, int status) {
    uint16_t pair[] = {(uint16_t)exit_code_of(status), (uint16_t)signal_of(status)};
    send(type, channel, pair, sizeof pair);
}

/* ---- channels ---- */

static struct channel *find_channel(uint32_t id) {
    for (struct channel *c = channels; c < channels + NUM_CHANNELS; c++)
        if (c->id == id)
            return c;
    return NULL;
}

static void close_end(int *fd) {
    if (*fd >= 0)
        sys_close(*fd);
    *fd = -1;
}

static void free_channel(struct channel *c) {
    close_end(&c->in);
    close_end(&c->out);
    close_end(&c->err);
    c->id = 0;
}

static void signal_channel(struct channel *c, int number) {
    if (!c->has_exited && sys_kill(-c->pid, number) < 0) /* it may not lead its group yet */
        sys_kill(c->pid, number);
}

/* Makes the pipes of a channel and of its process. */
static bool make_pipes(struct channel *c, int theirs[3]) {
    int pipes[3][2];
    for (int n = 0; n < 3; n++)
        if (sys_pipe(pipes[n]) < 0) {
            while (n-- > 0)
                sys_close(pipes[n][0]), sys_close(pipes[n][1]);
            return false;
        }
    theirs[0] = pipes[0][0], theirs[1] = pipes[1][1], theirs[2] = pipes[2][1];
    c->in = pipes[0][1], c->out = pipes[1][0], c->err = pipes[2][0];
    sys_set_nonblocking(c->in);
    sys_set_nonblocking(c->out);
    sys_set_nonblocking(c->err);
    return true;
}

/* returns 0 in the new process, which has the pipes as its standard streams. */
static int start_process(uint32_t id) {
    struct channel *c = find_channel(0);
    int theirs[3];
    if (!c || !make_pipes(c, theirs)) {
        send_number(REFUSED, id, BUSY);
        return -EAGAIN;
    }
    int pid = sys_fork();
    if (pid == 0) {
        sys_set_blocked_signals(0);
        sys_setsid();
        for (int n = 0; n < 3; n++)
            sys_dup_to(theirs[n], n);
        return 0;
    }
    for (int n = 0; n < 3; n++)
        sys_close(theirs[n]);
    if (pid < 0) {
        free_channel(c);
        send_number(REFUSED, id, BUSY);
        return pid;
    }
    c->id = id, c->pid = pid, c->granted = 0, c->input_size = 0, c->left_over = LEFT_OVER;
    c->is_input_ended = c->has_exited = false;
    send_number(GRANTED, id, INPUT_SIZE);
    return pid;
}

/* ---- streams ---- */

/* Passes on what a stream has, as far as granted; returns whether it moved a byte. */
static bool forward(struct channel *c, int *fd, enum reply type) {
    static uint8_t data[OUTPUT_SIZE];
    if (*fd < 0 || !c->granted)
        return false;
    long size = sys_read(*fd, data, c->granted < OUTPUT_SIZE ? c->granted : OUTPUT_SIZE);
    if (size == 0 || (size < 0 && size != -EAGAIN && size != -EINTR))
        close_end(fd);
    if (size <= 0)
        return false;
    send(type, c->id, data, (size_t)size);
    c->granted -= (uint32_t)size;
    if (c->has_exited)
        c->left_over -= (int)size;
    return true;
}

/* Gives the process its input; what it will not read any more is taken all the same. */
static void feed(struct channel *c) {
    uint32_t done = c->input_size;
    if (c->in >= 0 && done) {
        long size = sys_write(c->in, c->input, done);
        if (size == -EAGAIN || size == -EINTR)
            return;
        if (size < 0)
            close_end(&c->in);
        else
            done = (uint32_t)size;
    }
    c->input_size -= done;
    __builtin_memmove(c->input, c->input + done, c->input_size);
    if (done)
        send_number(GRANTED, c->id, done);
    if (c->is_input_ended && !c->input_size)
        close_end(&c->in);
}

/* Ends a channel whose process has exited and has left nothing that could still be sent. */
static void finish(struct channel *c) {
    while (c->left_over > 0 && (forward(c, &c->out, STDOUT) || forward(c, &c->err, STDERR)))
        ;
    bool is_waiting = !c->granted && c->left_over > 0 && (c->out >= 0 || c->err >= 0);
    if (is_waiting)
        return; /* the next grant goes on */
    send_status(EXIT, c->id, c->status);
    free_channel(c);
}

static void reap(void) {
    int status, pid;
    while ((pid = sys_wait(-1, &status, WNOHANG)) > 0)
        for (struct channel *c = channels; c < channels + NUM_CHANNELS; c++)
            if (c->id && !c->has_exited && c->pid == pid) {
                c->has_exited = true, c->status = status;
                finish(c);
            }
}

/* ---- requests ---- */

/* Cuts the strings out of a request: the directory, arguments, variables; returns false if they are not there. */
static bool cut_strings(char *data, size_t size, unsigned num_args, unsigned num_variables, char **strings) {
    unsigned count = 0, wanted = 1 + num_args + num_variables;
    if (!num_args || wanted + 2 > MAX_STRINGS || !size || data[size - 1])
        return false;
    for (size_t at = 0; at < size; at += text_size(data + at) + 1) {
        if (count == wanted)
            return false;
        /* One place is left after the arguments and one after the variables, for the NULL that ends each list. */
        strings[count + (count > num_args)] = data + at;
        count++;
    }
    return count == wanted;
}

static void obey_exec(uint32_t id, uint8_t *payload, size_t size, char **env) {
    static char *strings[MAX_STRINGS];
    uint16_t counts[2];
    if (size < sizeof counts) {
        send_number(REFUSED, id, MALFORMED);
        return;
    }
    __builtin_memcpy(counts, payload, sizeof counts);
    char **argv = strings + 1, **variables = argv + counts[0] + 1;
    if (!cut_strings((char *)payload + sizeof counts, size - sizeof counts, counts[0], counts[1], strings)) {
        send_number(REFUSED, id, MALFORMED);
        return;
    }
    argv[counts[0]] = NULL;
    unsigned count = counts[1]; /* what the request does not set, the process has from us */
    variables[count] = NULL;
    for (; *env && variables + count + 1 < strings + MAX_STRINGS; env++) {
        char name[64] = "";
        for (size_t n = 0; n + 1 < sizeof name && (*env)[n] && (*env)[n] != '='; n++)
            name[n] = (*env)[n], name[n + 1] = 0;
        if (!find_variable(variables, name))
            variables[count++] = *env, variables[count] = NULL;
    }
    if (start_process(id) == 0)
        run_program(strings[0], argv, variables);
}

static void obey_input(struct channel *c, const uint8_t *payload, size_t size) {
    if (size > sizeof c->input - c->input_size) { /* more than was granted: no host of ours */
        signal_channel(c, SIGKILL);
        return;
    }
    __builtin_memcpy(c->input + c->input_size, payload, size);
    c->input_size += (uint32_t)size;
    c->is_input_ended |= !size;
    feed(c);
}

static void obey_grant(struct channel *c, uint32_t number) {
    c->granted = number > UINT32_MAX - c->granted ? UINT32_MAX : c->granted + number;
    if (c->has_exited)
        finish(c);
}

static void obey(const struct header *header, uint8_t *payload, unsigned abilities, char **env) {
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
            obey_exec(id, payload, header->size, env);
        else if (start_process(id) == 0)
            run_attestation(payload);
    } else if (c && header->type == STDIN)
        obey_input(c, payload, header->size);
    else if (c && header->type == SIGNAL && number <= 64)
        signal_channel(c, (int)number);
    else if (c && header->type == GRANT)
        obey_grant(c, number);
}

/* Reads from the port and obeys every whole frame; returns false at its end. */
static bool receive(unsigned abilities, char **env) {
    static uint8_t data[FRAME_SIZE];
    static size_t size;
    long more = sys_read(port_fd, data + size, sizeof data - size);
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
        obey(&header, data + at + sizeof header, abilities, env);
        at += sizeof header + header.size;
    }
    size -= at;
    __builtin_memmove(data, data + at, size);
    return true;
}

/* ---- the loop ---- */

enum { POLL_PORT, POLL_CHILDREN, POLL_ENDED, NUM_FIXED };

static void watch(struct channel *c, struct pollfd fds[3]) {
    bool may_send = c->id && c->granted && !c->has_exited;
    fds[0] = (struct pollfd){.fd = c->id && c->input_size ? c->in : -1, .events = POLLOUT};
    fds[1] = (struct pollfd){.fd = may_send ? c->out : -1, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = may_send ? c->err : -1, .events = POLLIN};
}

static void look_after(struct channel *c, const struct pollfd fds[3]) {
    if (fds[0].revents)
        feed(c);
    if (fds[1].revents)
        forward(c, &c->out, STDOUT);
    if (fds[2].revents)
        forward(c, &c->err, STDERR);
}

static void drop_all(void) {
    for (struct channel *c = channels; c < channels + NUM_CHANNELS; c++)
        if (c->id) {
            signal_channel(c, SIGKILL);
            free_channel(c);
        }
}

bool serve(int port, int ended, unsigned abilities, char **env) {
    static struct pollfd fds[NUM_FIXED + 3 * NUM_CHANNELS];
    bool has_ended = false;
    port_fd = port, is_port_open = true;
    uint64_t signals = SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGPIPE);
    sys_set_blocked_signals(signals);
    int children = sys_signalfd(SIGNAL_BIT(SIGCHLD));
    uint16_t hello[] = {PROTOCOL_VERSION, (uint16_t)abilities, NUM_CHANNELS};
    send(HELLO, 0, hello, sizeof hello);
    while (is_port_open && !has_ended) {
        fds[POLL_PORT] = (struct pollfd){.fd = port, .events = POLLIN};
        fds[POLL_CHILDREN] = (struct pollfd){.fd = children, .events = POLLIN};
        fds[POLL_ENDED] = (struct pollfd){.fd = ended, .events = POLLIN};
        for (int n = 0; n < NUM_CHANNELS; n++)
            watch(&channels[n], fds + NUM_FIXED + 3 * n);
        if (sys_poll(fds, NUM_FIXED + 3 * NUM_CHANNELS) < 0)
            continue;
        for (int n = 0; n < NUM_CHANNELS; n++)
            look_after(&channels[n], fds + NUM_FIXED + 3 * n);
        struct signalfd_siginfo signal;
        if (fds[POLL_CHILDREN].revents && sys_read(children, &signal, sizeof signal) > 0)
            reap();
        int status;
        has_ended = fds[POLL_ENDED].revents;
        if (has_ended && sys_read(ended, &status, sizeof status) == sizeof status)
            send_status(ENDED, 0, status);
        if (fds[POLL_PORT].revents && !receive(abilities, env))
            break;
    }
    sys_close(children);
    drop_all();
    return !has_ended;
}
