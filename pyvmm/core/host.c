/*
 * The host's instruction set, for the host of this build.
 */
#include "host.h"

#include <string.h>

#if defined(__x86_64__)
#include "host_x86_64.c.inc"
#include "host_x86_64_vector.c.inc"
#elif defined(__aarch64__)
#include "host_aarch64.c.inc"
#include "host_aarch64_vector.c.inc"
#endif
