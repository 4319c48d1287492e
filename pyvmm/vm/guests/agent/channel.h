/* Channels: see channel.c. */
#ifndef CHANNEL_H
#define CHANNEL_H

#include "agent.h"

enum {
    NUM_CHANNELS = 64,
    INPUT_SIZE = 131072, /* bytes that a channel buffers for a process that does not read */
    FRAME_SIZE = sizeof(struct header) + UINT16_MAX,
};

struct channel {
    uint32_t id; /* 0: free */
    int pid;
    int in, out, err; /* our ends of the pipes; -1: closed */
    bool has_terminal, is_input_ended, has_exited;
    int status;
    uint32_t granted; /* bytes of output that may be sent */
    int left_over;
    uint32_t input_start, input_size; /* of the bytes in the buffer that wait */
    uint8_t input[INPUT_SIZE];
};

extern struct channel channels[NUM_CHANNELS];

/* ---- frames ---- */

void set_port(int port);
/* returns false once a frame could not be written. */
bool is_connected(void);
void send(enum reply type, uint32_t channel, const void *payload, size_t size);
void send_number(enum reply type, uint32_t channel, uint32_t number);
void send_status(enum reply type, uint32_t channel, int status);

/* ---- processes ---- */

/* returns the channel, or NULL; 0 finds a free one. */
struct channel *find_channel(uint32_t id);
/*
 * Starts a process with pipes, or a terminal of a size, as its standard streams; returns 0 in it.
 */
int start_process(uint32_t id, const struct terminal_size *size);
/* Tells a process that its terminal has another size. */
void resize_terminal(struct channel *c, struct terminal_size size);
void signal_channel(struct channel *c, int number);
/* Sends a stream's output, as far as granted; returns whether it sent anything. */
bool forward(struct channel *c, int *fd, enum reply type);
/* Takes input for the process; returns false if there is no room for it. */
bool take_input(struct channel *c, const uint8_t *data, size_t size);
/* Gives the process the input that waits; drops it if the process has closed its standard input. */
void feed(struct channel *c);
/* Ends a channel whose process has exited, once all output is sent. */
void finish(struct channel *c);
/* Collects the processes that have exited. */
void reap(void);
void drop_all(void);

#endif
