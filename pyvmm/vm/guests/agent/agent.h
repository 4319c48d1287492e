/* The parts of the agent, and what they have in common. */
#ifndef AGENT_H
#define AGENT_H

#include "linux.h"

/* ---- the protocol; its other end is pyvmm/vm/agent/protocol.py, the page about it docs/agent.md ---- */

enum { PROTOCOL_VERSION = 1 };

struct header { /* little-endian, as both machines are */
    uint32_t channel;
    uint16_t type;
    uint16_t size; /* of what follows */
};

enum request { EXEC = 1, ATTEST, STDIN, SIGNAL, GRANT, PING };
enum reply { HELLO = 1, STDOUT, STDERR, EXIT, GRANTED, PONG, REFUSED, ENDED };
enum reason { BUSY = 1, NOT_ALLOWED, MALFORMED };
enum { CHALLENGE_SIZE = 64 };

/* What the agent does for the host; the kernel's command line has the last word (pyvmm.agent=). */
enum ability { CAN_ATTEST = 1, CAN_EXEC = 2 };

/* ---- serve.c ---- */

/* returns true when the port is closed, false when the entry point has ended, as `ended` tells. */
bool serve(int port, int ended, unsigned abilities, char **env);

/* ---- run.c: in a new process ---- */

/* Becomes the program; if it cannot, says why on standard error and exits as a shell would. */
_Noreturn void run_program(const char *directory, char **argv, char **env);
/* Writes a report on the challenge to standard output. */
_Noreturn void run_attestation(const uint8_t *challenge);
/* returns the value of a variable, or NULL. */
const char *find_variable(char **env, const char *name);

/* ---- main.c ---- */

/* Serves the port as soon as there is one, until the end. */
_Noreturn void run_agent(int port, int ended, unsigned abilities, char **env);
/* returns the abilities that the word stands for, or `otherwise`. */
unsigned parse_abilities(const char *word, unsigned otherwise);
/* returns how much of a file fits; 0 if it is not there. */
size_t read_file(const char *path, char *data, size_t size);
/* Tells the console, or who called. */
void complain(const char *what, const char *why);
const char *error_text(int error);

/* ---- init.c ---- */

/* The first process of a root file system that is one program. */
_Noreturn void run_init(char **env);

#endif
