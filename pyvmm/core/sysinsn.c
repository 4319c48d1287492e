/*
 * SYS instructions: TLB invalidation, cache maintenance, address translation.
 *
 * The only caches are decoded code and the software TLB, so data cache operations only check traps, translation and
 * permissions.
 * Spec: DDI 0487, "TLB maintenance instructions", "Cache maintenance instructions", FEAT_TLBIRANGE, FEAT_TLBIOS.
 */
#include "sysinsn.h"

#include "at.h"
#include "code.h"
#include "inval.h"
#include "mmu.h"
#include "raise.h"
#include "regime.h"
#include "sysreg.h"
#include "tlb.h"

static enum step undefined(struct cpu *cpu) {
    raise_undefined(cpu);
    return STEP_FAULT;
}

static enum step trapped(struct cpu *cpu, unsigned el, uint32_t encoding, unsigned rt) {
    raise_sysreg(cpu, el, encoding, rt, false);
    return STEP_FAULT;
}

/* An unimplemented instruction is UNDEFINED, unless EL2 traps IMPLEMENTATION DEFINED ones. */
static enum step unknown(struct cpu *cpu, uint32_t encoding, unsigned rt, bool read) {
    if (cpu->el == 0 || !is_implementation_defined(encoding) || !(cpu->st.hcr_el2 & HCR_TIDCP)) {
        return undefined(cpu);
    }
    raise_sysreg(cpu, 2, encoding, rt, read);
    return STEP_FAULT;
}

/* ---- TLBI ---- */

/* CRm selects the PEs and whether it is a range; op2 selects the operation. */
enum { TLBI_OS = 1, TLBI_RANGE_IS = 2, TLBI_IS = 3, TLBI_RANGE_OS = 5, TLBI_RANGE = 6, TLBI_LOCAL = 7 };
enum { TLBI_VMALL = 0, TLBI_VA = 1, TLBI_ASID = 2, TLBI_VAA = 3, TLBI_VAL = 5, TLBI_VAAL = 7 };

/* Addresses of a range operation: BaseADDR in granules, (NUM + 1) << (5 * SCALE + 1) of them. */
static struct inval tlbi_range(uint64_t value) {
    static const uint8_t shifts[4] = {12, 12, 14, 16}; /* by TG */
    unsigned shift = shifts[value >> 46 & 3];
    uint64_t num = value >> 39 & 31, scale = value >> 44 & 3;
    uint64_t base = (uint64_t)sign_extend(value, 37) << shift;
    return (struct inval){.kind = INVAL_VA, .addr = base, .size = ((num + 1) << (5 * scale + 1)) << shift};
}

/* One address: its granule may have any size, so use the largest that TCR_EL1 may select for its half. */
static struct inval tlbi_page(const struct cpu *cpu, uint64_t value) {
    uint64_t va = (uint64_t)sign_extend(value, 44) << 12;
    unsigned shift = s1_granule_bits(cpu, va_is_high(va));
    return (struct inval){.kind = INVAL_VA, .addr = va & ~ones(shift), .size = 1ull << shift};
}

/* The regime of EL1's operations at this level: EL2's own with E2H and TGE. */
static enum regime el1_regime(const struct cpu *cpu) {
    return cpu->el2.active && cpu->el2.e2h && cpu->el2.tge ? REGIME_EL2 : REGIME_EL1;
}

/* @return false if the operation does not exist */
static bool tlbi_decode(const struct cpu *cpu, unsigned crm, unsigned op2, uint64_t value, struct inval *what) {
    bool range = crm == TLBI_RANGE_IS || crm == TLBI_RANGE_OS || crm == TLBI_RANGE;
    switch (op2) {
    case TLBI_VMALL: *what = (struct inval){.kind = INVAL_ALL, .is_one = cpu->st.has_el2}; return !range;
    case TLBI_ASID: *what = (struct inval){.kind = INVAL_ASID, .addr = value >> 48}; return !range;
    case TLBI_VA:
    case TLBI_VAA:
    case TLBI_VAL:
    case TLBI_VAAL: *what = range ? tlbi_range(value) : tlbi_page(cpu, value); return true;
    default: return false;
    }
}

static enum step invalidate(struct cpu *cpu, struct inval what, bool local) {
    if (!local && cpu->machine->num_pes > 1) {
        cpu_post_inval(cpu, what, true);
    }
    if (what.regime != cpu->regime) {
        tlb_flush_regime(cpu, what.regime);
    } else if (what.kind == INVAL_VA) {
        tlb_flush_va(cpu, what.addr, what.size);
    } else if (what.kind == INVAL_ASID) {
        tlb_flush_asid(cpu, (uint16_t)what.addr);
    } else {
        tlb_flush_stage1(cpu);
    }
    return STEP_NEXT;
}

static enum step tlbi(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t value) {
    unsigned crm = encoding >> 3 & 15, op2 = encoding & 7;
    struct inval what;
    if (crm < TLBI_OS || crm > TLBI_LOCAL || crm == 4 || !tlbi_decode(cpu, crm, op2, value, &what)) {
        return undefined(cpu);
    }
    if (cpu->st.hcr_el2 & HCR_TTLB) {
        return trapped(cpu, 2, encoding, rt);
    }
    what.regime = el1_regime(cpu);
    bool local = (crm == TLBI_LOCAL || crm == TLBI_RANGE) && !(cpu->st.hcr_el2 & HCR_FB);
    return invalidate(cpu, what, local);
}

/* CRm of the operations of EL2 only; op2 is that of EL1's for addresses, and 0 is all of EL2. */
enum { TLBI_IPA = 4 };
enum { TLBI_ALLE1 = 4, TLBI_VMALLS12E1 = 6 };

/* Operations by IPA and by VMID invalidate all of EL1's regime: it has the TLBs of one VMID. */
static enum step tlbi_el2(struct cpu *cpu, uint32_t encoding, uint64_t value) {
    unsigned crm = encoding >> 3 & 15, op2 = encoding & 7;
    bool range = crm == TLBI_RANGE_IS || crm == TLBI_RANGE_OS || crm == TLBI_RANGE;
    bool by_ipa = crm == TLBI_IPA || (crm == 0 && (op2 & 3) && (op2 & 3) != 3);
    bool by_va = !by_ipa && crm && (op2 == TLBI_VA || op2 == TLBI_VAL);
    bool all = !range && (op2 == TLBI_VMALL || op2 == TLBI_ALLE1 || op2 == TLBI_VMALLS12E1);
    if (!cpu->el2.active || !cpu->el || crm > TLBI_LOCAL || !(by_ipa || by_va || (crm && all))) {
        return undefined(cpu);
    }
    struct inval what = {.kind = INVAL_ALL, .is_one = true, .regime = REGIME_EL1};
    if (by_va || (!by_ipa && op2 == TLBI_VMALL)) {
        what = by_va ? (range ? tlbi_range(value) : tlbi_page(cpu, value)) : what;
        what.regime = REGIME_EL2;
    }
    bool local = crm == TLBI_LOCAL || crm == TLBI_RANGE || (by_ipa && crm && (op2 == 1 || op2 == 2 || op2 >= 5));
    return invalidate(cpu, what, local);
}

/* ---- caches ---- */

/* Translate; faults are marked as caused by cache maintenance. */
static bool maintain(struct cpu *cpu, uint64_t va, bool invalidates, struct translation *t) {
    if (mmu_translate_for_maintenance(cpu, va, invalidates, t)) {
        return true;
    }
    cpu->exc.iss |= ESR_ABORT_CM | ESR_ABORT_WnR;
    return false;
}

/* IC IVAU: drop the page's decoded code, here and on the other PEs. */
static enum step ic_ivau(struct cpu *cpu, uint64_t va) {
    struct translation t;
    if (!maintain(cpu, va, false, &t)) {
        return STEP_FAULT;
    }
    const uint8_t *page = t.host ? t.host - (va & ~PAGE_MASK) : NULL;
    if (!page || !atomic_load(&cpu->machine->has_code[t.pas][(t.pa - cpu->machine->dram_base) >> GRANULE_SHIFT])) {
        return STEP_NEXT;
    }
    code_drop_page(cpu, page);
    if (cpu->machine->num_pes > 1) {
        cpu_post_inval(cpu, (struct inval){.kind = INVAL_CODE_PAGE, .addr = (uintptr_t)page}, true);
    }
    return STEP_NEXT;
}

static enum step ic_all(struct cpu *cpu, bool broadcast) {
    code_drop_all(cpu);
    if ((broadcast || cpu->st.hcr_el2 & HCR_FB) && cpu->machine->num_pes > 1) {
        cpu_post_inval(cpu, (struct inval){.kind = INVAL_CODE_ALL}, true);
    }
    return STEP_NEXT;
}

static enum step dc_address(struct cpu *cpu, uint64_t va, bool invalidates) {
    struct translation t;
    return maintain(cpu, va, invalidates, &t) ? STEP_NEXT : STEP_FAULT;
}

#define SYS(op1, crn, crm, op2) ENCODE(1u, op1, crn, crm, op2)

enum maintenance {
    IC_IALLUIS = SYS(0, 7, 1, 0),
    IC_IALLU = SYS(0, 7, 5, 0),
    DC_IVAC = SYS(0, 7, 6, 1),
    DC_ISW = SYS(0, 7, 6, 2),
    DC_CSW = SYS(0, 7, 10, 2),
    DC_CISW = SYS(0, 7, 14, 2),
    DC_ZVA = SYS(3, 7, 4, 1),
    IC_IVAU = SYS(3, 7, 5, 1),
    DC_CVAC = SYS(3, 7, 10, 1),
    DC_CVAU = SYS(3, 7, 11, 1),
    DC_CVAP = SYS(3, 7, 12, 1),
    DC_CIVAC = SYS(3, 7, 14, 1),
};

/* The EL2 control for an operation; 0: not a maintenance operation of EL1. */
static uint64_t maintenance_trap(uint32_t op) {
    switch (op) {
    case IC_IALLUIS:
    case IC_IALLU:
    case IC_IVAU:
    case DC_CVAU: return HCR_TPU;
    case DC_ISW:
    case DC_CSW:
    case DC_CISW: return HCR_TSW;
    case DC_IVAC:
    case DC_CVAC:
    case DC_CVAP:
    case DC_CIVAC: return HCR_TPCP;
    case DC_ZVA: /* reached only if it is not allowed */ return HCR_TDZ;
    default: return 0;
    }
}

static enum step maintenance(struct cpu *cpu, uint32_t op, unsigned rt, uint64_t value) {
    uint64_t trap = maintenance_trap(op);
    bool for_el0 = (op >> 11 & 7) == 3;
    if (!trap || (cpu->el == 0 && !for_el0)) {
        return undefined(cpu);
    }
    if (cpu->el == 0 && !(cpu->st.sctlr_el1 & (op == DC_ZVA ? SCTLR_DZE : SCTLR_UCI))) {
        return trapped(cpu, 1, op, rt);
    }
    if (cpu->st.hcr_el2 & trap) {
        return trapped(cpu, 2, op, rt);
    }
    switch (op) {
    case IC_IALLUIS:
    case IC_IALLU: return ic_all(cpu, op == IC_IALLUIS);
    case IC_IVAU: return ic_ivau(cpu, value);
    case DC_ISW:
    case DC_CSW:
    case DC_CISW: return STEP_NEXT;
    default: return dc_address(cpu, value, op == DC_IVAC);
    }
}

enum step sys_insn(struct cpu *cpu, uint32_t encoding, unsigned rt, uint64_t value) {
    unsigned op1 = encoding >> 11 & 7, crn = encoding >> 7 & 15, crm = encoding >> 3 & 15;
    bool is_at = crn == 7 && ((op1 == 0 && (crm == 8 || crm == 9)) || (op1 == 4 && crm == 8));
    if (crn == 7 && !is_at) {
        return maintenance(cpu, encoding, rt, value);
    }
    if (cpu->el == 0 || (op1 != 0 && op1 != 4) || encoding >> 14 != 1) {
        return unknown(cpu, encoding, rt, false);
    }
    if (is_at) {
        return at_insn(cpu, op1 << 4 | (crm & 1) << 3 | (encoding & 7), value);
    }
    if (op1 == 4) {
        return crn == 8 ? tlbi_el2(cpu, encoding, value) : unknown(cpu, encoding, rt, false);
    }
    return crn == 8 ? tlbi(cpu, encoding, rt, value) : unknown(cpu, encoding, rt, false);
}

/* No SYSL instruction is implemented. */
enum step sysl_insn(struct cpu *cpu, uint32_t encoding, unsigned rt) {
    return unknown(cpu, encoding, rt, true);
}
