// A program at EL2 without a stage 1: entry, vectors, SMC, and accesses that may fault.
    .section .start, "ax"
    .globl _start, start_secondary, smc, try_read, vectors

_start:                         // PE 0, from the loader
    adrp    x1, stacks + 0x4000
    mov     sp, x1
    bl      enter
    bl      main
    mov     x0, #0x0008         // SYSTEM_OFF
    movk    x0, #0x8400, lsl #16
    smc     #0
    b       .

start_secondary:                // another PE, from PSCI CPU_ON; x0 is its argument
    adrp    x1, stacks + 0x8000
    mov     sp, x1
    mov     x19, x0
    bl      enter
    mov     x0, x19
    bl      secondary
    movz    x0, #0x0002         // CPU_OFF
    movk    x0, #0x8400, lsl #16
    smc     #0
    b       .

enter:
    adr     x1, vectors
    msr     vbar_el2, x1
    isb
    ret

// uint64_t smc(struct registers *): x0 to x17 in and out; returns x0.
smc:
    stp     x29, x30, [sp, #-32]!
    str     x0, [sp, #16]
    mov     x29, x0
    ldp     x0, x1, [x29]
    ldp     x2, x3, [x29, #16]
    ldp     x4, x5, [x29, #32]
    ldp     x6, x7, [x29, #48]
    ldp     x8, x9, [x29, #64]
    ldp     x10, x11, [x29, #80]
    ldp     x12, x13, [x29, #96]
    ldp     x14, x15, [x29, #112]
    ldp     x16, x17, [x29, #128]
    smc     #0
    ldr     x29, [sp, #16]
    stp     x0, x1, [x29]
    stp     x2, x3, [x29, #16]
    stp     x4, x5, [x29, #32]
    stp     x6, x7, [x29, #48]
    stp     x8, x9, [x29, #64]
    stp     x10, x11, [x29, #80]
    stp     x12, x13, [x29, #96]
    stp     x14, x15, [x29, #112]
    stp     x16, x17, [x29, #128]
    ldp     x29, x30, [sp], #32
    ret

// uint64_t try_read(uint64_t address): ESR_EL2 of the fault, or 0.
try_read:
    mov     x9, #0
    ldr     x10, [x0]
    mov     x0, x9              // an exception has put ESR_EL2 there
    ret

    .macro  vector handler
    .balign 0x80
    b       \handler
    .endm

    .balign 0x800
vectors:
    .rept   4
    vector  unexpected
    .endr
    vector  synchronous         // from EL2 with its own stack pointer
    .rept   11
    vector  unexpected
    .endr

synchronous:                    // only try_read() may fault: continue after its load
    adr     x9, try_read
    add     x9, x9, #4
    mrs     x10, elr_el2
    cmp     x9, x10
    b.ne    unexpected
    add     x10, x10, #4
    msr     elr_el2, x10
    mrs     x9, esr_el2
    eret

unexpected:
    mrs     x0, esr_el2
    mrs     x1, far_el2
    mrs     x2, elr_el2
    b       die

    .section .bss
    .balign 0x4000
stacks:
    .space  0x8000
