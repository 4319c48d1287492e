/*
 * Channels: the processes that run for the host, their pipes, and the frames about them.
 *
 * Output of a process is read only as far as the host has granted.  Input that it does not read waits in its channel's
 * buffer; the host may send only what fits.  So a slow process or host does not hold up other channels.
 */
#include "channel.h"

enum {
    OUTPUT_SIZE = 16384,
    /* The limit for output after the process has ended: its children may keep writing for ever. */
    LEFT_OVER = 2 * 65536,
};

struct channel channels[NUM_CHANNELS];

static int port_fd;
static bool is_port_open;

/* ---- frames ---- */

void set_port(int port) {
    port_fd = port, is_port_open = true;
}

bool is_connected(void) {
    return is_port_open;
}

static void write_port(const uint8_t *data, size_t size) {
    while (size && is_port_open) {
        long done = sys_write(port_fd, data, size);
        if (done < 0 && done != -EINTR)
            is_port_open = false;
        if (done > 0)
            data += done, size -= (size_t)done;
    }
}

/* Sends a frame with one write, so that the host gets it in one piece. */
void send(enum reply type, uint32_t channel, const void *payload, size_t size) {
    static uint8_t frame[FRAME_SIZE];
    struct header header = {.channel = channel, .type = (uint16_t)type, .size = (uint16_t)size};
    __builtin_memcpy(frame, &header, sizeof header);
    __builtin_memcpy(frame + sizeof header, payload, size);
    write_port(frame, sizeof header + size);
}

void send_number(enum reply type, uint32_t channel, uint32_t number) {
    send(type, channel, &number, sizeof number);
}

void send_status(enum reply type, uint32_t channel, int status) {
    uint16_t pair[] = {(uint16_t)exit_code_of(status), (uint16_t)signal_of(status)};
    send(type, channel, pair, sizeof pair);
}

/* ---- channels ---- */

struct channel *find_channel(uint32_t id) {
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

void signal_channel(struct channel *c, int number) {
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

void resize_terminal(struct channel *c, struct terminal_size size) {
    uint16_t window[4] = {size.rows, size.columns}; /* struct winsize */
    if (c->has_terminal && c->in >= 0)
        sys_ioctl(c->in, TIOCSWINSZ, window);
}

/* Makes the terminal of a channel; its process has the other end. */
static bool make_terminal(struct channel *c, int theirs[3], struct terminal_size size) {
    int unlock = 0, ours = sys_open("/dev/ptmx", O_RDWR | O_NOCTTY);
    sys_ioctl(ours, TIOCSPTLCK, &unlock);
    int peer = sys_ioctl(ours, TIOCGPTPEER, (const void *)(uintptr_t)(O_RDWR | O_NOCTTY | O_CLOEXEC));
    c->in = ours, c->out = (int)SYSCALL(fcntl, ours, F_DUPFD_CLOEXEC, 0, 0, 0), c->err = -1;
    if (peer < 0 || c->out < 0) {
        close_end(&c->in);
        close_end(&c->out);
        return false;
    }
    theirs[0] = peer, theirs[1] = theirs[2] = -1;
    c->has_terminal = true;
    sys_set_nonblocking(ours);
    resize_terminal(c, size);
    return true;
}

/* Gives a new process its standard streams. */
static void take_streams(const int theirs[3], bool has_terminal) {
    sys_set_blocked_signals(0);
    sys_set_default(SIGINT);
    sys_set_default(SIGQUIT);
    sys_setsid();
    sys_die_with_parent();
    if (has_terminal)
        sys_ioctl(theirs[0], TIOCSCTTY, 0);
    for (int n = 0; n < 3; n++)
        sys_dup_to(theirs[has_terminal ? 0 : n], n);
}

int start_process(uint32_t id, const struct terminal_size *size) {
    struct channel *c = find_channel(0);
    int theirs[3];
    if (c)
        c->has_terminal = false;
    if (!c || !(size ? make_terminal(c, theirs, *size) : make_pipes(c, theirs))) {
        send_number(REFUSED, id, BUSY);
        return -EAGAIN;
    }
    int pid = sys_fork();
    if (pid == 0) {
        take_streams(theirs, c->has_terminal);
        return 0;
    }
    for (int n = 0; n < 3; n++)
        close_end(&theirs[n]);
    if (pid < 0) {
        free_channel(c);
        send_number(REFUSED, id, BUSY);
        return pid;
    }
    c->id = id, c->pid = pid, c->granted = 0, c->input_start = c->input_size = 0, c->left_over = LEFT_OVER;
    c->is_input_ended = c->has_exited = false;
    send_number(GRANTED, id, INPUT_SIZE);
    return pid;
}

/* ---- streams ---- */

bool forward(struct channel *c, int *fd, enum reply type) {
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

/* Gives the process bytes, as many as it takes now; returns how many are done with. */
static size_t pass_on(struct channel *c, const uint8_t *data, size_t size) {
    if (c->in < 0 || !size)
        return size;
    long done = sys_write(c->in, data, size);
    if (done == -EAGAIN || done == -EINTR)
        return 0;
    if (done < 0)
        close_end(&c->in);
    return done < 0 ? size : (size_t)done;
}

/* Closes the input after its end. */
static void end_input(struct channel *c) {
    if (!c->is_input_ended || c->input_size || c->in < 0)
        return;
    if (c->has_terminal)
        sys_write(c->in, "\4", 1); /* Ctrl-D */
    close_end(&c->in);
}

bool take_input(struct channel *c, const uint8_t *data, size_t size) {
    if (size > sizeof c->input - c->input_size)
        return false;
    c->is_input_ended |= !size;
    size_t done = c->input_size ? 0 : pass_on(c, data, size); /* most input never waits */
    if (done)
        send_number(GRANTED, c->id, (uint32_t)done);
    data += done, size -= done;
    if (c->input_start + c->input_size + size > sizeof c->input) {
        __builtin_memmove(c->input, c->input + c->input_start, c->input_size);
        c->input_start = 0;
    }
    __builtin_memcpy(c->input + c->input_start + c->input_size, data, size);
    c->input_size += (uint32_t)size;
    end_input(c);
    return true;
}

void feed(struct channel *c) {
    size_t done = pass_on(c, c->input + c->input_start, c->input_size);
    c->input_size -= (uint32_t)done;
    c->input_start = c->input_size ? c->input_start + (uint32_t)done : 0;
    if (done)
        send_number(GRANTED, c->id, (uint32_t)done);
    end_input(c);
}

void finish(struct channel *c) {
    while (c->left_over > 0 && (forward(c, &c->out, STDOUT) || forward(c, &c->err, STDERR)))
        ;
    bool is_waiting = !c->granted && c->left_over > 0 && (c->out >= 0 || c->err >= 0);
    if (is_waiting)
        return; /* the next grant continues */
    send_status(EXIT, c->id, c->status);
    free_channel(c);
}

void reap(void) {
    int status, pid;
    while ((pid = sys_wait(-1, &status, WNOHANG)) > 0)
        for (struct channel *c = channels; c < channels + NUM_CHANNELS; c++)
            if (c->id && !c->has_exited && c->pid == pid) {
                c->has_exited = true, c->status = status;
                finish(c);
            }
}

void drop_all(void) {
    for (struct channel *c = channels; c < channels + NUM_CHANNELS; c++)
        if (c->id) {
            signal_channel(c, SIGKILL);
            free_channel(c);
        }
}
