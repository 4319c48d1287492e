/*
 * The machine: its memory, its PEs, entry to and exit from guest code.  Invalidations between PEs are in inval.c,
 * sleep in wait.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "code.h"
#include "debug.h"
#include "el2.h"
#include "gic_cpuif.h"
#include "gpc.h"
#include "guest.h"
#include "host.h"

#include "jit.h"
#include "interp.h"
#include "inval.h"
#include "inval_serve.h"
#include "mmu.h"
#include "pauth.h"
#include "pmu.h"
#include "pstate.h"
#include "sysreg.h"
#include "timer.h"
#include "tlb.h"
#include "wait.h"

/* ---- memory ---- */

/* Each PAS has its own sparse file of the DRAM's size, so one world can never see another world's dropped contents. */
static bool map_memory(struct machine *machine) {
    static const char *const names[NUM_PAS] = {"pyvmm-secure", "pyvmm-ns", "pyvmm-root", "pyvmm-realm"};
    for (unsigned pas = 0; pas < NUM_PAS; pas++) {
        int fd = memfd_create(names[pas], MFD_CLOEXEC);
        machine->memfd[pas] = fd;
        if (fd < 0 || ftruncate(fd, (off_t)machine->dram_size) < 0) {
            return false;
        }
        machine->memory[pas] =
            mmap(NULL, machine->dram_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (machine->memory[pas] == MAP_FAILED) {
            machine->memory[pas] = NULL;
            return false;
        }
        machine->has_code[pas] = calloc(machine->dram_size >> GRANULE_SHIFT, sizeof *machine->has_code[pas]);
        if (!machine->has_code[pas]) {
            return false;
        }
    }
    machine->marks = calloc(machine->dram_size >> GRANULE_SHIFT, 1);
    return machine->marks != NULL;
}

int machine_make_private(struct machine *machine) {
    for (unsigned pas = 0; pas < NUM_PAS; pas++) {
        if (mmap(machine->memory[pas], machine->dram_size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
            return -1;
        }
    }
    machine->is_private = true;
    return 0;
}

static void cpu_free(struct cpu *cpu) {
    if (cpu) {
        code_cache_free(cpu->code);
        jit_free(cpu->jit);
        pthread_mutex_destroy(&cpu->inval_lock);
        pthread_mutex_destroy(&cpu->sleep_lock);
        pthread_cond_destroy(&cpu->sleep_cond);
        free(cpu->sets);
        free(cpu);
    }
}

static struct cpu *cpu_new(struct machine *machine, uint32_t index) {
    struct cpu *cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~63ull);
    if (!cpu) {
        return NULL;
    }
    memset(cpu, 0, sizeof *cpu);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&cpu->inval_lock, NULL);
    pthread_mutex_init(&cpu->sleep_lock, NULL);
    pthread_cond_init(&cpu->sleep_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    cpu->machine = machine;
    cpu->index = index;
    cpu->alarm = UINT64_MAX;
    cpu->code = code_cache_new();
    if (!cpu->code || !tlb_sets_new(cpu)) {
        cpu_free(cpu);
        return NULL;
    }
    pauth_update(cpu);
    return cpu;
}

struct machine *machine_new(uint64_t dram_base, uint64_t dram_size, uint32_t num_pes, uint32_t clock,
                            uint32_t features) {
    if (num_pes == 0 || num_pes > 64 || (dram_base | dram_size) % GRANULE_SIZE || dram_size == 0) {
        errno = EINVAL;
        return NULL;
    }
    struct machine *machine = calloc(1, sizeof *machine);
    if (!machine) {
        return NULL;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    machine->dram_base = dram_base;
    machine->dram_size = dram_size;
    machine->clock = clock;
    machine->features = features;
    machine->epoch_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    memset(machine->memfd, 0xff, sizeof machine->memfd);
    bool ok = map_memory(machine);
    for (uint32_t k = 0; ok && k < num_pes; k++) {
        machine->pe[k] = cpu_new(machine, k);
        ok = machine->pe[k] != NULL;
        machine->num_pes = k + 1;
    }
    if (!ok) {
        int error = errno;
        machine_free(machine);
        errno = error;
        return NULL;
    }
    return machine;
}

int machine_translate(struct machine *machine, uint32_t threshold, uint32_t checks) {
    if (!host_is_supported() || (checks && machine->num_pes > 1)) {
        errno = host_is_supported() ? EINVAL : ENOTSUP;
        return -1;
    }
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        struct cpu *cpu = machine->pe[k];
        cpu->jit = jit_new(cpu, threshold, checks);
        if (!cpu->jit) {
            return -1;
        }
    }
    return 0;
}

uint64_t machine_translated(struct machine *machine) {
    uint64_t total = 0;
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        total += machine->pe[k]->jit ? machine->pe[k]->jit->num_regions : 0;
    }
    return total;
}

void machine_free(struct machine *machine) {
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        cpu_free(machine->pe[k]);
    }
    for (unsigned pas = 0; pas < NUM_PAS; pas++) {
        if (machine->memory[pas]) {
            munmap(machine->memory[pas], machine->dram_size);
        }
        if (machine->memfd[pas] >= 0) {
            close(machine->memfd[pas]);
        }
        free((void *)machine->has_code[pas]);
    }
    free((void *)machine->marks);
    free(machine);
}

int machine_memfd(struct machine *machine, uint32_t pas) {
    return machine->memfd[pas & 3];
}

uint8_t *machine_memory(struct machine *machine, uint32_t pas) {
    return machine->memory[pas & 3];
}

void machine_set_gpt(struct machine *machine, uint64_t gptbr_pa, uint64_t gpccr) {
    machine->gptbr = gptbr_pa;
    machine->gpccr = gpccr;
    machine_tlbi_all(machine);
}

static int refuse(uint64_t pa, uint64_t *bad) {
    if (bad) {
        *bad = pa;
    }
    return FSC_GPF;
}

/* The range must lie in DRAM and every granule of it must pass the check. */
int machine_gpc(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size, uint64_t *bad) {
    uint64_t offset = pa - machine->dram_base;
    if (offset > machine->dram_size || size > machine->dram_size - offset) {
        return refuse(offset >= machine->dram_size ? pa : machine->dram_base + machine->dram_size, bad);
    }
    for (uint64_t at = pa; at < pa + size; at = (at & PAGE_MASK) + GRANULE_SIZE) {
        if (gpc_check(machine, (enum pas)(pas & 3), at)) {
            return refuse(at, bad);
        }
    }
    return 0;
}

static _Atomic uint8_t *marks_of(struct machine *machine, uint64_t pa) {
    return &machine->marks[(pa - machine->dram_base) >> GRANULE_SHIFT];
}

static int give_back(struct machine *machine, uint32_t pas, uint64_t start, uint64_t end) {
    if (machine->is_private) {
        return madvise(machine->memory[pas] + (start - machine->dram_base), end - start, MADV_DONTNEED);
    }
    return fallocate(machine->memfd[pas], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)(start - machine->dram_base), (off_t)(end - start));
}

/* Skip granules that the GPT has made accessible again meanwhile. */
static int give_back_dropped(struct machine *machine, uint32_t pas) {
    struct dropped *run = &machine->dropped[pas];
    uint64_t start = run->start, end = run->end;
    *run = (struct dropped){0, 0};
    while (start < end) {
        uint64_t at = start;
        while (at < end && gpc_check(machine, pas, at)) {
            at += GRANULE_SIZE;
        }
        if (at > start && give_back(machine, pas, start, at)) {
            return -1;
        }
        start = at + GRANULE_SIZE;
    }
    return 0;
}

/* An inaccessible granule: zero it now, and return its memory to the host together with its neighbours'. */
static int drop(struct machine *machine, uint32_t pas, uint64_t pa) {
    struct dropped *run = &machine->dropped[pas];
    int result = 0;
    guest_zero(machine->memory[pas] + (pa - machine->dram_base), GRANULE_SIZE);
    if (run->end != pa || run->end - run->start >= MAX_DROPPED) {
        result = give_back_dropped(machine, pas);
        run->start = pa;
    }
    run->end = pa + GRANULE_SIZE;
    return result;
}

/* Most granules that change the PAS were never accessed in one of them: then there is nothing to do. */
int machine_punch(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size) {
    pas &= 3;
    const uint8_t touched = (uint8_t)(MARK_TOUCHED << pas);
    uint64_t start = pa, end = pa + size;
    while (start < end && !(atomic_load(marks_of(machine, start)) & touched)) {
        start += GRANULE_SIZE;
    }
    if (start >= end) {
        return 0;
    }
    machine_code_changed(machine, pas, start, end - start);
    bool is_out_of_reach = size == GRANULE_SIZE && gpc_check(machine, pas, pa);
    int result = is_out_of_reach ? drop(machine, pas, pa) : give_back(machine, pas, start, end);
    for (uint64_t at = start; !result && at < end; at += GRANULE_SIZE) {
        uint8_t marks = atomic_load(marks_of(machine, at));
        if (!(marks & MARK_CACHED)) { /* a TLB entry allows further writes without setting a mark */
            atomic_compare_exchange_strong(marks_of(machine, at), &marks, (uint8_t)(marks & ~touched));
        }
    }
    return result;
}

int machine_read(struct machine *machine, uint32_t pas, uint64_t pa, void *data, uint64_t size, uint64_t *bad) {
    int fault = machine_gpc(machine, pas, pa, size, bad);
    if (!fault) {
        guest_read(data, machine->memory[pas & 3] + (pa - machine->dram_base), size);
        atomic_thread_fence(memory_order_acquire); /* a device reads an index, then what it counts; */
    }
    return fault;
}

int machine_write(struct machine *machine, uint32_t pas, uint64_t pa, const void *data, uint64_t size, uint64_t *bad) {
    int fault = machine_gpc(machine, pas, pa, size, bad);
    if (!fault) {
        machine_code_changed(machine, pas, pa, size);
        atomic_thread_fence(memory_order_release); /* or it writes them in the other order */
        guest_write(machine->memory[pas & 3] + (pa - machine->dram_base), data, size);
    }
    return fault;
}

int machine_zero(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size, uint64_t *bad) {
    int fault = machine_gpc(machine, pas, pa, size, bad);
    uint64_t end = pa + size;
    for (uint64_t at = pa, next; !fault && at < end; at = next) {
        next = (at & PAGE_MASK) + GRANULE_SIZE < end ? (at & PAGE_MASK) + GRANULE_SIZE : end;
        if (atomic_load(marks_of(machine, at)) & MARK_TOUCHED << (pas & 3)) {
            machine_code_changed(machine, pas, at, next - at);
            guest_zero(machine->memory[pas & 3] + (at - machine->dram_base), next - at);
        }
    }
    return fault;
}

void machine_code_changed(struct machine *machine, uint32_t pas, uint64_t pa, uint64_t size) {
    const uint8_t touched = (uint8_t)(MARK_TOUCHED << (pas & 3));
    for (uint64_t at = pa & PAGE_MASK; at < pa + size; at += GRANULE_SIZE) {
        uint64_t offset = at - machine->dram_base;
        if (offset >= machine->dram_size) {
            continue;
        }
        if (!(atomic_load(marks_of(machine, at)) & touched)) {
            atomic_fetch_or(marks_of(machine, at), touched);
        }
        if (atomic_load(&machine->has_code[pas & 3][offset >> GRANULE_SHIFT])) {
            uintptr_t host = (uintptr_t)machine->memory[pas & 3] + offset;
            machine_post_inval(machine, (struct inval){.kind = INVAL_CODE_PAGE, .addr = host});
        }
    }
}

/* ---- running ---- */

uint64_t machine_counter(struct machine *machine) {
    return timer_counter(machine, machine->pe[0]);
}

void pe_reset_state(struct pe_state *state) {
    memset(state, 0, sizeof *state);
    state->pstate = EL1H_MASKED;
    state->sctlr_el1 = SCTLR_RESET;
    state->hcr_el2 = HCR_RW | HCR_API | HCR_APK; /* EL1 may authenticate pointers */
    state->vmpidr_el2 = MPIDR_RES1;
    state->cntkctl_el1 = 0;
    state->cnthctl_el2 = CNTHCTL_EL1PCTEN | CNTHCTL_EL1PCEN;
    state->mdcr_el2 = NUM_EVENT_COUNTERS; /* HPMN: EL1 may use all counters */
    gic_reset(state);
    state->security = PAS_NS;
    state->oslsr_el1 = 0;
}

void pe_reset_el2(struct pe_state *state) {
    state->has_el2 = 1;
    state->pstate = EL2H_MASKED;
    state->sctlr_el2 = SCTLR_EL2_RES1;
    state->hcr_el2 = HCR_RW;
    state->cptr_el2 = CPTR_EL2_RES1;
    state->cnthctl_el2 = CNTHCTL_EL1PCTEN | CNTHCTL_EL1PCEN;
    state->vmpidr_el2 = state->vpidr_el2 = 0;
    state->icc_vmcr = state->ich_vmcr;
    state->icc_elrsr = state->ich_elrsr;
    state->icc_hcr = ICH_HCR_EN;
}

static void load_state(struct cpu *cpu, const struct pe_state *state) {
    cpu->st = *state;
    cpu->st.sctlr_el1 = sysreg_written(cpu, ENCODE(3, 0, 1, 0, 0), state->sctlr_el1);
    cpu->st.ich_vmcr = gic_vmcr(state->ich_vmcr);
    el2_load(cpu);
    tlb_enter(cpu, cpu->el2.active ? REGIME_EL2 : REGIME_EL1);
    pauth_update(cpu);
    memcpy(cpu->x, state->x, sizeof state->x);
    cpu->x[X_ZERO] = 0;
    memcpy(cpu->v, state->v, sizeof state->v);
    cpu->fpcr = (uint32_t)state->fpcr;
    cpu->fpsr = (uint32_t)state->fpsr;
    cpu->pc = state->pc;
    cpu->debug.stepping = false;
    cpu->debug.step_iss = 0;
    cpu->excl_va = state->excl_size ? state->excl_va : ~0ull;
    cpu->excl_size = state->excl_size;
    memcpy(cpu->excl_value, state->excl_value, sizeof cpu->excl_value);
    cpu->el = cpu_el_of(cpu, state->pstate); /* so that cpu_set_el() saves the SP of this level */
    cpu->spsel = FIELD(state->pstate, PSTATE_SP);
    cpu->x[X_SP] = cpu->el && cpu->spsel ? cpu->st.sp_el1 : cpu->st.sp_el0;
    cpu_set_pstate(cpu, state->pstate);
    cpu->btype_at = 0;
    if (unlikely(state->debug || cpu->debug.in_use || state->mdscr_el1 & (MDSCR_SS | MDSCR_MDE))) {
        debug_update(cpu);
    }
}

static void store_state(struct cpu *cpu, struct pe_state *state) {
    cpu->st.pstate = cpu_pstate(cpu);
    *(cpu->el && cpu->spsel ? &cpu->st.sp_el1 : &cpu->st.sp_el0) = cpu->x[X_SP];
    memcpy(cpu->st.x, cpu->x, sizeof cpu->st.x);
    memcpy(cpu->st.v, cpu->v, sizeof cpu->st.v);
    cpu->st.fpcr = cpu->fpcr;
    cpu->st.fpsr = cpu->fpsr;
    cpu->st.pc = cpu->pc;
    cpu->st.excl_size = cpu->st.debug && cpu->excl_va != ~0ull ? cpu->excl_size : 0;
    cpu->st.excl_va = cpu->excl_va;
    memcpy(cpu->st.excl_value, cpu->excl_value, sizeof cpu->excl_value);
    tlb_leave(cpu);
    el2_store(cpu);
    *state = cpu->st;
}

/* Guest arithmetic on the host's FPU needs round-to-nearest and no flush to zero; a library may have changed that. */
#ifdef __x86_64__
static uint32_t fp_host_enter(void) {
    uint32_t saved = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80);
    return saved;
}

static void fp_host_leave(uint32_t saved) {
    __builtin_ia32_ldmxcsr(saved);
}
#elif defined(__aarch64__)
static uint32_t fp_host_enter(void) {
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr\n\tmsr fpcr, xzr" : "=&r"(saved));
    return (uint32_t)saved;
}

static void fp_host_leave(uint32_t saved) {
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)saved));
}
#else
static uint32_t fp_host_enter(void) {
    return 0;
}

static void fp_host_leave(uint32_t saved) {
    (void)saved;
}
#endif

void pe_run(struct machine *machine, uint32_t pe, struct pe_state *state, uint64_t budget, struct pe_exit *exit) {
    struct cpu *cpu = machine->pe[pe];
    memset(exit, 0, sizeof *exit);
    cpu->exit = exit;
    cpu->budget = budget < 1ull << 58 ? budget : 1ull << 58;
    cpu->icount = 0;
    cpu->leave_irq = 0;
    cpu_enter_guest(cpu);
    load_state(cpu, state);
    timer_enter(cpu);
    pmu_enter(cpu);
    irq_update(cpu);
    uint32_t host_fp = fp_host_enter();
    interp_run(cpu);
    fp_host_leave(host_fp);
    timer_poll(cpu);
    pmu_leave(cpu);
    cpu_leave_guest(cpu);
    atomic_fetch_and(&cpu->request, ~(uint32_t)(REQ_LEAVE | REQ_IRQ));
    store_state(cpu, state);
    cpu->icount_base += cpu->icount;
    if (machine->clock == CLOCK_EXACT) {
        machine->executed += cpu->icount;
    }
    cpu->icount = 0;
    atomic_store_explicit(&cpu->retired, cpu->icount_base, memory_order_relaxed);
}

void pe_kick(struct machine *machine, uint32_t pe) {
    struct cpu *cpu = machine->pe[pe];
    cpu_request(cpu, REQ_KICK);
    cpu_wake(cpu);
}

void pe_set_maintenance(struct machine *machine, uint32_t pe, uint32_t enabled) {
    machine->pe[pe]->maintenance_enabled = enabled;
}

void pe_set_alarm(struct machine *machine, uint32_t pe, uint64_t count) {
    machine->pe[pe]->alarm = count;
}

uint64_t pe_instructions(struct machine *machine, uint32_t pe) {
    return atomic_load_explicit(&machine->pe[pe]->retired, memory_order_relaxed);
}

int pe_translate(struct machine *machine, uint32_t pe, const struct pe_state *state, uint64_t va, uint32_t access,
                 uint64_t *pa, uint32_t *pas, uint32_t *stage2) {
    struct cpu *cpu = machine->pe[pe];
    struct translation t;
    cpu_enter_guest(cpu);
    load_state(cpu, state);
    memset(&cpu->exc, 0, sizeof cpu->exc);
    bool ok = access == 3 ? mmu_translate_for_debugger(cpu, va, &t)
                          : mmu_translate(cpu, va, (enum access)(access % 3), mmu_index(cpu), &t);
    cpu_leave_guest(cpu);
    *stage2 = !ok && cpu->exc.target_el == 2;
    if (!ok) {
        unsigned fsc = FIELD(cpu->exc.iss, ESR_ABORT_FSC);
        return fsc ? (int)fsc : 0x40;
    }
    *pa = t.pa;
    *pas = t.pas;
    return 0;
}

const char *core_digest(void) {
    return CORE_DIGEST;
}
