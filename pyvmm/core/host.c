/*
 * The host's instruction set: that of the host this is built for.
 */
#include "host.h"

#include <string.h>

#ifdef __x86_64__
#include "host_x86_64.c.inc"
#endif
