/*
 * What the TLBs and the decoded pages of a PE contain, for an observer.  It reads only, while the PE does not run.
 */
#include "tlb.h"
#include "translation.h"

/* ---- TLBs ---- */

static void find_granule(const struct machine *machine, uintptr_t host, struct tlb_view *view) {
    for (unsigned pas = 0; pas < NUM_PAS; pas++) {
        uint64_t offset = host - (uintptr_t)machine->memory[pas];
        if (offset < machine->dram_size) {
            view->pa = machine->dram_base + offset;
            view->pas = pas;
        }
    }
}

static uint32_t view_data(const struct cpu *cpu, struct tlb_view *views) {
    uint32_t count = 0;
    for (unsigned k = 0; k < NUM_MMU * TLB_SIZE; k++) {
        const struct tlb_entry *entry = &cpu->tlbs[k / TLB_SIZE][k % TLB_SIZE];
        bool reads = entry->read_tag != TLB_NONE, writes = entry->write_tag != TLB_NONE;
        if (!reads && !writes) {
            continue;
        }
        struct tlb_view *view = &views[count++];
        *view = (struct tlb_view){.va = reads ? entry->read_tag : entry->write_tag, .index = k / TLB_SIZE};
        view->flags =
            (reads ? VIEW_READ : 0) | (writes ? VIEW_WRITE : 0) | (entry->info & TLB_INFO_NG ? VIEW_NOT_GLOBAL : 0);
        view->shift = entry->info >> TLB_INFO_SHIFT_SHIFT & 63;
        find_granule(cpu->machine, view->va + entry->addend, view);
    }
    return count;
}

static uint32_t view_fetches(const struct cpu *cpu, struct tlb_view *views) {
    uint32_t count = 0;
    for (unsigned k = 0; k < 2 * FETCH_SIZE; k++) {
        unsigned el = k / FETCH_SIZE, slot = k % FETCH_SIZE;
        const struct fetch_entry *entry = &cpu->fetches[el][slot];
        if (entry->tag == FETCH_NONE) {
            continue;
        }
        struct tlb_view *view = &views[count++];
        *view = (struct tlb_view){.va = entry->tag, .level = VIEW_FETCHES, .index = L2_FETCH_EL0 + el};
        view->flags = VIEW_EXECUTE | (cpu->walks->ng_fetches[el][slot / 64] >> slot % 64 & 1 ? VIEW_NOT_GLOBAL : 0);
        view->shift = cpu->walks->fetch_shift[el][slot];
        find_granule(cpu->machine, (uintptr_t)page_of(entry->ops)->host, view);
    }
    return count;
}

static uint32_t view_second(const struct walk_cache *walks, struct tlb_view *views) {
    uint32_t count = 0;
    for (unsigned k = 0; k < L2_SETS * L2_WAYS; k++) {
        const struct l2_entry *entry = &walks->l2[k / L2_WAYS][k % L2_WAYS];
        if (entry->va == TLB_NONE) {
            continue;
        }
        views[count++] = (struct tlb_view){
            .va = entry->va,
            .pa = entry->pa,
            .level = VIEW_SECOND,
            .index = entry->index,
            .pas = entry->pas,
            .asid = entry->asid,
            .shift = entry->block_shift,
            .flags = (entry->readable ? VIEW_READ : 0) | (entry->writable ? VIEW_WRITE : 0) |
                     (entry->index >= L2_FETCH_EL0 ? VIEW_EXECUTE : 0) | (entry->ng ? VIEW_NOT_GLOBAL : 0),
        };
    }
    return count;
}

static uint32_t view_stage2(const struct walk_cache *walks, struct tlb_view *views) {
    uint32_t count = 0;
    for (unsigned k = 0; k < S2_CACHE_SIZE; k++) {
        const struct s2_entry *entry = &walks->s2[k];
        if (entry->tag == TLB_NONE) {
            continue;
        }
        unsigned allowed = entry->stage2.permissions;
        views[count++] = (struct tlb_view){
            .va = entry->tag,
            .pa = entry->stage2.pa,
            .level = VIEW_STAGE2,
            .pas = entry->stage2.pas,
            .flags = (allowed & S2_READ ? VIEW_READ : 0) | (allowed & S2_WRITE ? VIEW_WRITE : 0) |
                     (allowed & (S2_EXEC_EL1 | S2_EXEC_EL0) ? VIEW_EXECUTE : 0),
        };
    }
    return count;
}

_Static_assert(NUM_MMU *TLB_SIZE + 2 * FETCH_SIZE + L2_SETS * L2_WAYS + S2_CACHE_SIZE == 11264, "as in api.h");

uint32_t pe_view_tlbs(struct machine *machine, uint32_t pe, struct tlb_view views[11264], uint32_t *pending) {
    struct cpu *cpu = machine->pe[pe];
    pthread_mutex_lock(&cpu->inval_lock);
    *pending = cpu->num_inval;
    pthread_mutex_unlock(&cpu->inval_lock);
    uint32_t count = view_data(cpu, views);
    count += view_fetches(cpu, views + count);
    count += view_second(cpu->walks, views + count);
    return count + view_stage2(cpu->walks, views + count);
}

/* ---- code ---- */

static const struct code_page *live_page(struct machine *machine, uint32_t pe, unsigned pas, uint64_t granule) {
    if (granule >= machine->dram_size >> GRANULE_SHIFT || !(atomic_load(&machine->has_code[pas][granule]) >> pe & 1)) {
        return NULL;
    }
    return page_of(code_page(machine->pe[pe], pas, machine->dram_base + (granule << GRANULE_SHIFT)));
}

static uint16_t view_slot(const struct code_page *page, unsigned slot) {
    if (page_op(page, slot) == OP_DECODE) {
        return 0;
    }
    unsigned view = VIEW_DECODED;
    if (page->jit) {
        view |= in_set(page->jit->covered, slot) ? VIEW_TRANSLATED : 0;
        view |= page->ops[slot].op == OP_JIT ? VIEW_REGION : 0;
        view |= (unsigned)page->jit->heat[slot] << 8;
    }
    return (uint16_t)view;
}

uint32_t pe_view_code(struct machine *machine, uint32_t pe, struct code_view views[8192]) {
    uint32_t count = 0;
    for (unsigned pas = 0; pas < NUM_PAS; pas++) {
        for (uint64_t granule = 0; granule < machine->dram_size >> GRANULE_SHIFT && count < MAX_PAGES; granule++) {
            const struct code_page *page = live_page(machine, pe, pas, granule);
            if (!page) {
                continue;
            }
            struct code_view *view = &views[count++];
            *view = (struct code_view){.pa = machine->dram_base + (granule << GRANULE_SHIFT), .pas = pas};
            for (unsigned slot = 0; slot < SLOTS; slot++) {
                uint16_t found = view_slot(page, slot);
                view->decoded += (found & VIEW_DECODED) != 0;
                view->translated += (found & VIEW_TRANSLATED) != 0;
                view->regions += (found & VIEW_REGION) != 0;
            }
        }
    }
    return count;
}

void pe_view_slots(struct machine *machine, uint32_t pe, uint32_t pas, uint64_t pa, uint16_t slots[1024]) {
    const struct code_page *page = live_page(machine, pe, pas, (pa - machine->dram_base) >> GRANULE_SHIFT);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        slots[slot] = page ? view_slot(page, slot) : 0;
    }
}
