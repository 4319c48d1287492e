/*
 * MRS and MSR: find the register, check the EL and the traps, then use its storage or its function.
 *
 * The registers are declared in pyvmm/arch/sysregs.py.  Spec: DDI 0487, "AArch64 System Register Descriptions".
 */
#include "sysreg.h"

#include <stddef.h>
#include <sys/random.h>

#include "debug.h"
#include "el2.h"
#include "gic_cpuif.h"
#include "pauth.h"
#include "pmu.h"
#include "pstate.h"
#include "raise.h"
#include "timer.h"
#include "tlb.h"

struct sysreg_row {
    uint16_t encoding;
    uint8_t access;  /* enum sysreg_access */
    uint8_t trap;    /* enum sysreg_trap */
    uint32_t offset; /* offset of its storage in struct cpu; 0: none */
    uint64_t mask;   /* bits that a write can change */
    uint64_t fixed;  /* bits that a write sets, or the value of a register without storage */
    uint64_t (*read)(struct cpu *cpu);
    enum step (*write)(struct cpu *cpu, uint64_t value); /* the value is already masked */
    uint8_t features; /* enum feature: features that the register requires */
    uint64_t optional[4]; /* bits of mask, or of fixed, by the number of their feature; the last: HAS_EL2 */
};

enum { HAS_EL2 = 1 << 7 }; /* among the features: the context has EL2 */

#include "gen/sysregs.h"

#include "sysreg_functions.c.inc"
#include "sysreg_pmu.c.inc"
#include "sysreg_el2.c.inc"

static const struct sysreg_row *find_row(uint32_t encoding, uint32_t features) {
    unsigned slot = encoding >> 15 & 1 ? sysreg_slots[encoding & 0x7fff] : 0;
    const struct sysreg_row *row = &sysreg_rows[slot];
    return slot && !(row->features & ~features) ? row : NULL;
}

static uint64_t optional_bits(const struct sysreg_row *row, uint32_t features) {
    return (features & FEATURE_PAUTH ? row->optional[0] : 0) | (features & FEATURE_BTI ? row->optional[1] : 0) |
           (features & FEATURE_PMU ? row->optional[2] : 0) | (features & HAS_EL2 ? row->optional[3] : 0);
}

static uint32_t features_of(const struct cpu *cpu) {
    return cpu->machine->features | (cpu->st.has_el2 ? HAS_EL2 : 0);
}

static bool is_el12(uint32_t encoding) {
    return encoding >> 14 == 3 && (encoding >> 11 & 7) == 5;
}

static bool is_at_el2(const struct cpu *cpu) {
    return cpu->el2.active && cpu->el;
}

/* The row of what an encoding means at EL2.  With E2H, EL1's names are EL2's registers; without it, EL1's own, which
 * are in the rows of _EL12. */
static const struct sysreg_row *find_row_at_el2(const struct cpu *cpu, uint32_t encoding, uint32_t features) {
    if (!cpu->el2.e2h) {
        const struct sysreg_row *row = encoding >> 11 == 3 << 3 ? find_row(encoding | 5 << 11, features) : NULL;
        return row ? row : is_el12(encoding) ? NULL : find_row(encoding, features);
    }
    switch (encoding) {
    case ENCODE(3, 0, 1, 0, 2): return find_row(ENCODE(3, 4, 1, 1, 2), features);  /* CPACR_EL1: CPTR_EL2 */
    case ENCODE(3, 0, 14, 1, 0): return find_row(ENCODE(3, 4, 14, 1, 0), features); /* CNTKCTL_EL1: CNTHCTL_EL2 */
    default: return find_row(encoding, features);
    }
}

static const struct sysreg_row *find_row_here(const struct cpu *cpu, uint32_t encoding, uint32_t features) {
    return unlikely(is_at_el2(cpu)) ? find_row_at_el2(cpu, encoding, features) : find_row(encoding, features);
}

static uint64_t *storage_of(struct cpu *cpu, const struct sysreg_row *row) {
    return (uint64_t *)((char *)cpu + row->offset);
}

/* Op0=3, op1=0, CRn=0, CRm=1..7: unallocated encodings read as zero. */
static bool in_id_space(uint32_t encoding) {
    unsigned crm = encoding >> 3 & 15;
    return (encoding & ~0x7fu) == ENCODE(3, 0, 0, 0, 0) && crm >= 1 && crm <= 7;
}

/* ---- traps ---- */

/* Timer and counter controls.  @return the EL that the access traps to, 0 for none */
static unsigned timer_trap_el(const struct cpu *cpu, enum sysreg_trap trap) {
    uint64_t kernel = cpu->st.cntkctl_el1, hypervisor = cpu->st.cnthctl_el2;
    static const uint16_t el0_enables[] = {
        [TRAP_CNTFRQ] = CNTKCTL_EL0PCTEN | CNTKCTL_EL0VCTEN,
        [TRAP_CNTVCT] = CNTKCTL_EL0VCTEN,
        [TRAP_CNTPCT] = CNTKCTL_EL0PCTEN,
        [TRAP_CNTV] = CNTKCTL_EL0VTEN,
        [TRAP_CNTP] = CNTKCTL_EL0PTEN,
    };
    if (cpu->el == 0 && !(kernel & el0_enables[trap])) {
        return 1;
    }
    if ((trap == TRAP_CNTPCT && !(hypervisor & CNTHCTL_EL1PCTEN)) ||
        (trap == TRAP_CNTP && !(hypervisor & CNTHCTL_EL1PCEN))) {
        return 2;
    }
    return 0;
}

/* What lets EL0 access a register of the PMU: bits of PMUSERENR_EL0. */
static uint64_t pmu_el0_enables(enum sysreg_trap trap, bool read) {
    switch (trap) {
    case TRAP_PMU_SWINC: return PMUSERENR_EN | PMUSERENR_SW;
    case TRAP_PMU_SELECT: return PMUSERENR_EN | PMUSERENR_ER;
    case TRAP_PMU_CYCLES: return PMUSERENR_EN | (read ? PMUSERENR_CR : 0);
    case TRAP_PMU_COUNTER: return PMUSERENR_EN | (read ? PMUSERENR_ER : 0);
    default: return PMUSERENR_EN;
    }
}

static unsigned pmu_trap_el(const struct cpu *cpu, enum sysreg_trap trap, bool read) {
    if (cpu->el == 0 && trap != TRAP_PMU_USER && !(cpu->st.pmuserenr & pmu_el0_enables(trap, read))) {
        return 1;
    }
    return cpu->st.mdcr_el2 & (MDCR_TPM | (trap == TRAP_PMU_CONTROL ? MDCR_TPMCR : 0)) ? 2 : 0;
}

/* Controls by one bit of an EL2 register. */
static bool traps_to_el2(const struct cpu *cpu, enum sysreg_trap trap, bool read) {
    uint64_t hcr = cpu->st.hcr_el2, mdcr = cpu->st.mdcr_el2, ich = cpu->st.ich_hcr;
    switch (trap) {
    case TRAP_VM: return hcr & (read ? HCR_TRVM : HCR_TVM);
    case TRAP_ID1: return hcr & HCR_TID1;
    case TRAP_ID2:
    case TRAP_CTR: return hcr & HCR_TID2;
    case TRAP_ID3: return hcr & HCR_TID3;
    case TRAP_APK: return !(hcr & HCR_APK);
    case TRAP_ACTLR: return hcr & HCR_TACR;
    case TRAP_CPACR: return cpu->st.cptr_el2 & CPTR_TCPAC;
    case TRAP_DEBUG:
    case TRAP_DCC: return mdcr & MDCR_TDA;
    case TRAP_DEBUG_OS: return mdcr & MDCR_TDOSA;
    case TRAP_DEBUG_ROM: return mdcr & MDCR_TDRA;
    case TRAP_GIC_COMMON: return ich & ICH_HCR_TC;
    case TRAP_GIC_GROUP0: return ich & ICH_HCR_TALL0;
    case TRAP_GIC_GROUP1: return ich & ICH_HCR_TALL1;
    case TRAP_GIC_DIR: return ich & (ICH_HCR_TC | ICH_HCR_TDIR);
    default: return trap == TRAP_GIC_SGI;
    }
}

/* @return the EL that an access allowed at this EL traps to, 0 for none */
static unsigned trap_el(const struct cpu *cpu, enum sysreg_trap trap, bool read) {
    if (trap == TRAP_NONE) {
        return 0;
    }
    if (trap >= TRAP_CNTFRQ && trap <= TRAP_CNTP) {
        return timer_trap_el(cpu, trap);
    }
    if (trap >= TRAP_PMU && trap <= TRAP_PMU_USER) {
        return pmu_trap_el(cpu, trap, read);
    }
    if (cpu->el == 0 && ((trap == TRAP_CTR && !(cpu->st.sctlr_el1 & SCTLR_UCT)) ||
                         (trap == TRAP_DAIF && !(cpu->st.sctlr_el1 & SCTLR_UMA)) ||
                         (trap == TRAP_DCC && cpu->st.mdscr_el1 & MDSCR_TDCC))) {
        return 1;
    }
    return traps_to_el2(cpu, trap, read) ? 2 : 0;
}

static enum step undefined(struct cpu *cpu) {
    raise_undefined(cpu);
    return STEP_FAULT;
}

/* ---- access ---- */

/* An encoding that is not in the table: trapped, zero, or UNDEFINED. */
static enum step access_unknown(struct cpu *cpu, uint32_t encoding, unsigned rt, bool read, uint64_t *value) {
    uint64_t trap = in_id_space(encoding) && read ? HCR_TID3 : is_implementation_defined(encoding) ? HCR_TIDCP : 0;
    if (cpu->el == 0) {
        return undefined(cpu);
    }
    if (cpu->st.hcr_el2 & trap) {
        raise_sysreg(cpu, 2, encoding, rt, read);
        return STEP_FAULT;
    }
    if (trap != HCR_TID3) {
        return undefined(cpu);
    }
    *value = 0;
    return STEP_NEXT;
}

/* Is the access allowed?  STEP_NEXT: yes. */
static enum step check_access(struct cpu *cpu, const struct sysreg_row *row, unsigned rt, bool read) {
    unsigned needed =
        cpu->el ? (read ? ACCESS_EL1_READ : ACCESS_EL1_WRITE) : (read ? ACCESS_EL0_READ : ACCESS_EL0_WRITE);
    if (unlikely(is_at_el2(cpu))) {
        needed |= read ? ACCESS_EL2_READ : ACCESS_EL2_WRITE;
    }
    if (!(row->access & needed)) {
        return undefined(cpu);
    }
    if (row->encoding == ENCODE(3, 0, 4, 1, 0) && !cpu->spsel) { /* SP_EL0 is the current SP */
        return undefined(cpu);
    }
    if (row->trap == TRAP_FP && cpu->fp_trap) {
        raise_exception(cpu, cpu->fp_trap, EC_FP_ACCESS, ISS_COND_ALWAYS);
        return STEP_FAULT;
    }
    unsigned el = trap_el(cpu, row->trap, read);
    if (!el) {
        return is_absent_counter(cpu, row->encoding) ? undefined(cpu) : STEP_NEXT;
    }
    if (unlikely(cpu->st.has_el2) && row->trap == TRAP_GIC_SGI && cpu->el2.is_physical) {
        el = TARGET_OUTSIDE; /* the distributor's */
    }
    raise_sysreg(cpu, el, row->encoding, rt, read);
    return STEP_FAULT;
}

enum step sysreg_read(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t *value) {
    uint32_t features = features_of(cpu);
    const struct sysreg_row *row = find_row_here(cpu, encoding, features);
    if (!row) {
        return access_unknown(cpu, encoding, rt, true, value);
    }
    enum step step = check_access(cpu, row, rt, true);
    if (step == STEP_NEXT) {
        *value = row->read     ? row->read(cpu)
                 : row->offset ? *storage_of(cpu, row)
                               : row->fixed | optional_bits(row, features);
    }
    return step;
}

static uint64_t written(const struct sysreg_row *row, uint32_t features, uint64_t value) {
    return (value & (row->mask | optional_bits(row, features))) | (row->offset ? row->fixed : 0);
}

uint64_t sysreg_written(const struct cpu *cpu, uint32_t encoding, uint64_t value) {
    uint32_t features = features_of(cpu);
    return written(find_row(encoding, features), features, value);
}

enum step sysreg_write(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t value) {
    uint32_t features = features_of(cpu);
    const struct sysreg_row *row = find_row_here(cpu, encoding, features);
    if (!row) {
        return access_unknown(cpu, encoding, rt, false, &value);
    }
    enum step step = check_access(cpu, row, rt, false);
    if (step != STEP_NEXT) {
        return step;
    }
    value = written(row, features, value);
    if (row->write) {
        return row->write(cpu, value);
    }
    if (row->offset) {
        *storage_of(cpu, row) = value;
    }
    return row->trap == TRAP_DEBUG ? debug_written(cpu) : STEP_NEXT;
}

/* SP_EL0 counts as plain: the only difference is at EL1 with SP_EL0 selected, where it is UNDEFINED. */
bool sysreg_plain(uint32_t encoding, bool write, unsigned el, size_t *offset) {
    const struct sysreg_row *row = find_row(encoding, 0);
    const unsigned reads[3] = {ACCESS_EL0_READ, ACCESS_EL1_READ, ACCESS_EL2_READ};
    unsigned needed = write ? reads[el] << 1 : reads[el];
    if (!row || !row->offset || !(row->access & needed) || row->trap != TRAP_NONE) {
        return false;
    }
    if (write ? row->write || ~row->mask || row->fixed : row->read != NULL) {
        return false;
    }
    *offset = row->offset;
    return true;
}

uint64_t machine_id_register(struct machine *machine, uint32_t encoding) {
    const struct sysreg_row *row = find_row(encoding, machine->features);
    return row && !row->offset && row->access & ACCESS_EL1_READ ? row->fixed | optional_bits(row, machine->features)
                                                                : 0;
}

/* ---- MSR (immediate) ---- */

static enum step msr_daif(struct cpu *cpu, unsigned op2, unsigned imm) {
    if (cpu->el == 0 && !(cpu->st.sctlr_el1 & SCTLR_UMA)) {
        raise_sysreg(cpu, 1, ENCODE(0, 3, 4, imm, op2), 31, false);
        return STEP_FAULT;
    }
    return write_DAIF(cpu,
                      op2 == 6 ? cpu->daif | AS_FIELD(imm, PSTATE_DAIF) : cpu->daif & ~AS_FIELD(imm, PSTATE_DAIF));
}

enum step sysreg_msr_imm(struct cpu *cpu, unsigned op1, unsigned op2, unsigned imm) {
    switch (op1 << 3 | op2) {
    case 3 << 3 | 6:
    case 3 << 3 | 7: return msr_daif(cpu, op2, imm);
    case 3 << 3 | 1: return write_SSBS(cpu, AS_FIELD(imm & 1, PSTATE_SSBS));
    case 3 << 3 | 2: return write_DIT(cpu, AS_FIELD(imm & 1, PSTATE_DIT));
    case 0 << 3 | 4: return cpu->el ? write_PAN(cpu, AS_FIELD(imm & 1, PSTATE_PAN)) : undefined(cpu);
    case 0 << 3 | 5: return cpu->el ? write_SPSel(cpu, imm & 1) : undefined(cpu);
    default: return undefined(cpu);
    }
}
