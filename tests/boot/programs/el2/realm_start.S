// A program of a realm without a stage 1: the entries of its two RECs, its vectors, SMC.
    .section .start, "ax"
    .globl _start, start_second, smc

_start:
    mov     x9, #0x80000000
    add     x9, x9, #0x121, lsl #12
    mov     sp, x9
    bl      main
    movz    x0, #0x0008         // SYSTEM_OFF
    movk    x0, #0x8400, lsl #16
    smc     #0

start_second:
    mov     x9, #0x80000000
    add     x9, x9, #0x122, lsl #12
    mov     sp, x9
    bl      second
    movz    x0, #0x0002         // CPU_OFF
    movk    x0, #0x8400, lsl #16
    smc     #0

// uint64_t smc(struct call *): x0 to x9 in and out; returns x0.
smc:
    stp     x0, x30, [sp, #-16]!
    mov     x16, x0
    ldp     x0, x1, [x16]
    ldp     x2, x3, [x16, #16]
    ldp     x4, x5, [x16, #32]
    ldp     x6, x7, [x16, #48]
    ldp     x8, x9, [x16, #64]
    smc     #0
    ldr     x16, [sp]
    stp     x0, x1, [x16]
    stp     x2, x3, [x16, #16]
    stp     x4, x5, [x16, #32]
    stp     x6, x7, [x16, #48]
    stp     x8, x9, [x16, #64]
    ldp     x1, x30, [sp], #16
    ret
