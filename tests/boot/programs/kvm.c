/* A VMM of one page: a guest of KVM writes numbers to a device, counts at its EL0 and EL1, and turns itself off. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { RAM = 0x80000000, SIZE = 0x10000 };

static const uint32_t code[] = {
    0xd2a20001, /* mov x1, #0x10000000 */
    0xd2800002, /* mov x2, #0 */
    0xd29d4c03, /* mov x3, #0xea60 */
    0x91000442, /* loop: add x2, x2, #1 */
    0xeb03005f, /* cmp x2, x3 */
    0x54ffffc1, /* b.ne loop */
    0xb9000022, /* str w2, [x1] */
    0xd5384244, /* mrs x4, CurrentEL */
    0xb9000024, /* str w4, [x1] */
    0xd2800100, /* mov x0, #8 */
    0xf2b08000, /* movk x0, #0x8400, lsl #16 */
    0xd4000002, /* hvc #0 */
    0x14000000, /* b . */
};

static int call(int fd, unsigned long request, void *argument) {
    int result = ioctl(fd, request, argument);
    if (result < 0) {
        perror("ioctl");
        exit(1);
    }
    return result;
}

static void set_register(int vcpu, uint64_t id, uint64_t value) {
    struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};
    call(vcpu, KVM_SET_ONE_REG, &reg);
}

int main(void) {
    int kvm = open("/dev/kvm", O_RDWR);
    int vm = call(kvm, KVM_CREATE_VM, 0);
    void *ram = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memcpy(ram, code, sizeof code);
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = RAM, .memory_size = SIZE, .userspace_addr = (uintptr_t)ram};
    call(vm, KVM_SET_USER_MEMORY_REGION, &region);
    int vcpu = call(vm, KVM_CREATE_VCPU, 0);
    struct kvm_run *run =
        mmap(0, call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_vcpu_init init;
    call(vm, KVM_ARM_PREFERRED_TARGET, &init);
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    call(vcpu, KVM_ARM_VCPU_INIT, &init);
    set_register(vcpu, KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | (offsetof(struct kvm_regs, regs.pc) / 4),
                 RAM);
    for (int n = 0; n < 10; n++) {
        call(vcpu, KVM_RUN, 0);
        if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write) {
            printf("%llx: %u\n", (unsigned long long)run->mmio.phys_addr, *(uint32_t *)run->mmio.data);
        } else if (run->exit_reason == KVM_EXIT_SYSTEM_EVENT) {
            printf("off\n");
            return 0;
        } else {
            printf("exit %u\n", run->exit_reason);
            return 1;
        }
    }
    return 1;
}
