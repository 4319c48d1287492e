// The Realm Management Interface 1.0, as far as the programs here use it.  Spec: Arm DEN0137.
#ifndef RMI_H
#define RMI_H

#include <stdint.h>

#define RMI_FID(n) (0xc4000000ull | (n))
#define RMI_VERSION RMI_FID(0x150)
#define RMI_GRANULE_DELEGATE RMI_FID(0x151)
#define RMI_GRANULE_UNDELEGATE RMI_FID(0x152)
#define RMI_DATA_CREATE RMI_FID(0x153)
#define RMI_DATA_CREATE_UNKNOWN RMI_FID(0x154)
#define RMI_DATA_DESTROY RMI_FID(0x155)
#define RMI_REALM_ACTIVATE RMI_FID(0x157)
#define RMI_REALM_CREATE RMI_FID(0x158)
#define RMI_REALM_DESTROY RMI_FID(0x159)
#define RMI_REC_CREATE RMI_FID(0x15a)
#define RMI_REC_DESTROY RMI_FID(0x15b)
#define RMI_REC_ENTER RMI_FID(0x15c)
#define RMI_RTT_CREATE RMI_FID(0x15d)
#define RMI_RTT_DESTROY RMI_FID(0x15e)
#define RMI_RTT_MAP_UNPROTECTED RMI_FID(0x15f)
#define RMI_RTT_UNMAP_UNPROTECTED RMI_FID(0x162)
#define RMI_PSCI_COMPLETE RMI_FID(0x164)
#define RMI_FEATURES RMI_FID(0x165)
#define RMI_REC_AUX_COUNT RMI_FID(0x167)
#define RMI_RTT_INIT_RIPAS RMI_FID(0x168)
#define RMI_RTT_SET_RIPAS RMI_FID(0x169)

enum { MEASURE_CONTENT = 1, RUNNABLE = 1 };
enum { EMUL_MMIO = 1, INJECT_SEA = 2 };
enum exit_reason { EXIT_SYNC, EXIT_IRQ, EXIT_FIQ, EXIT_PSCI, EXIT_RIPAS_CHANGE, EXIT_HOST_CALL, EXIT_SERROR };

struct realm_params {
    uint64_t flags, s2sz, sve_vl, num_bps, num_wps, pmu_num_ctrs, hash_algo;
    uint8_t reserved[0x400 - 0x38], rpv[64], reserved2[0x800 - 0x440];
    uint64_t vmid, rtt_base, rtt_level_start, rtt_num_start;
};

struct rec_params {
    uint64_t flags, reserved[31], mpidr, reserved2[31], pc, reserved3[31], gprs[8], reserved4[152], num_aux, aux[16];
};

struct rec_enter {
    uint64_t flags, reserved[63], gprs[31], reserved2, gicv3_hcr, gicv3_lrs[16], reserved3[143];
};

struct rec_exit {
    uint64_t reason, reserved[31], esr, far, hpfar, reserved2[29], gprs[31], reserved3, gicv3_hcr, gicv3_lrs[16],
        gicv3_misr, gicv3_vmcr, reserved4[13], cntp_ctl, cntp_cval, cntv_ctl, cntv_cval, reserved5[28], ripas_base,
        ripas_top, ripas_value, reserved6[29], imm, reserved7[31], pmu_overflow;
};

struct rec_run {
    struct rec_enter enter;
    struct rec_exit exit;
};

_Static_assert(__builtin_offsetof(struct realm_params, rtt_num_start) == 0x818, "RmiRealmParams");
_Static_assert(__builtin_offsetof(struct rec_params, aux) == 0x808, "RmiRecParams");
_Static_assert(__builtin_offsetof(struct rec_run, exit) == 0x800, "RmiRecRun");
_Static_assert(__builtin_offsetof(struct rec_exit, pmu_overflow) == 0x700, "RmiRecExit");

#endif
