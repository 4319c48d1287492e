/* The protocol, and the interfaces of the agent's parts. */
#ifndef AGENT_H
#define AGENT_H

#include "linux.h"

/* ---- the protocol; its other end is pyvmm/vm/agent/protocol.py, the page about it docs/agent.md ---- */

enum { PROTOCOL_VERSION = 1 };

struct header { /* little-endian, as both machines are */
    uint32_t channel;
    uint16_t type;
    uint16_t size; /* of the payload */
};

enum request { EXEC = 1, ATTEST, STDIN, SIGNAL, GRANT, PING, TERMINAL };
enum reply { HELLO = 1, STDOUT, STDERR, EXIT, GRANTED, PONG, REFUSED, ENDED };
enum reason { BUSY = 1, NOT_ALLOWED, MALFORMED };
enum { CHALLENGE_SIZE = 64 };

/* What the agent may do for the host; the kernel's command line (pyvmm.agent=) overrides its argument. */
enum ability { CAN_ATTEST = 1, CAN_EXEC = 2, CAN_TERMINAL = 4 /* and it can give commands a terminal */ };

struct terminal_size { /* the payload of TERMINAL */
    uint16_t columns, rows;
};

/* ---- serve.c ---- */

/* returns true when the port is closed, false when `ended` reports the end of the entry point. */
bool serve(int port, int ended, unsigned abilities, char **env);

/* ---- run.c: in a new process ---- */

/* Becomes the program; if that fails, reports why on standard error and exits as a shell would. */
_Noreturn void run_program(const char *directory, char **argv, char **env);
/* Gets a report on the challenge; returns a description of what went wrong, or NULL. */
const char *get_report(const uint8_t *challenge, uint8_t *data, size_t size, size_t *total);
/* Writes a report on the challenge to standard output. */
_Noreturn void run_attestation(const uint8_t *challenge);
/* returns the value of a variable, or NULL. */
const char *find_variable(char **env, const char *name);

/* ---- main.c ---- */

/* Waits for the port and serves it, until the end. */
_Noreturn void run_agent(int port, int ended, unsigned abilities, char **env);
/* returns the abilities for a word, or `otherwise` if the word is unknown. */
unsigned parse_abilities(const char *word, unsigned otherwise);
/* returns how many bytes it read; 0 if the file does not exist. */
size_t read_file(const char *path, char *data, size_t size);
/* Writes an error line to standard error: the console's or the caller's. */
void complain(const char *what, const char *why);
const char *error_text(int error);

/* ---- init.c ---- */

/* The first process of a root file system for one program. */
_Noreturn void run_init(char **env);

#endif
