/*
 * Records: words that a hypervisor shows in memory, some of them registers of the context that it ran.
 */
#include <string.h>

#include "api.h"

int machine_write_record(struct machine *machine, uint32_t pas, uint64_t pa, const struct pe_state *state,
                         struct record *record) {
    for (uint32_t n = 0; n < record->num_registers; n++) {
        const struct record_registers *copied = &record->registers[n];
        memcpy(&record->words[copied->word], (const uint8_t *)state + copied->offset,
               copied->count * sizeof record->words[0]);
    }
    return machine_write(machine, pas, pa, record->words, record->num_words * sizeof record->words[0], NULL);
}
