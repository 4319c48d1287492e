/*
 * Stage-2 translation.
 */
#ifndef PYVMM_CORE_WALK_S2_H
#define PYVMM_CORE_WALK_S2_H

#include "walk.h"

/* Stage-2 memory type: its effect on stage 1's. */
enum s2_memory { S2_FROM_S1, S2_DEVICE, S2_NORMAL };

enum s2_permission { S2_READ = 1, S2_WRITE = 2, S2_EXEC_EL1 = 4, S2_EXEC_EL0 = 8, S2_ALL = 15 };

/* The stage-2 result for one IPA page. */
struct stage2 {
    uint64_t pa; /* of the page */
    uint8_t pas, permissions, memory, level;
};

/* Translate the page of `ipa` and check permissions. s1_level: the level of the accessed stage-1 table, or -1 for
 * the access itself; `update`: that table will be written. */
bool stage2_translate(struct cpu *cpu, const struct walk *w, uint64_t ipa, int s1_level, bool update,
                      struct stage2 *out);

#endif
