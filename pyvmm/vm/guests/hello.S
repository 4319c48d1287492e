// The built-in guest: prints where it runs, in a realm also what RSI reports, then powers off.
//
// A flat binary for RAM + 0x80000, entered at EL1 with the MMU off. It ignores the device tree,
// because the memory map is fixed. Its output:
//
//   a normal VM: one line;
//   a realm: RSI version, realm configuration, RIM and REMs.
//
// hello.bin is the assembled file; a test checks that it is current.
//
// Registers used throughout: x19 the UART, x20 the size of a measurement in bytes, x28 whether
// an exception was taken.

start:
    mov     x28, #0
    movz    x19, #0x0100, lsl #16       // UART 0
    adr     x0, stack_end
    mov     sp, x0
    adr     x0, vectors
    msr     vbar_el1, x0
    isb

    movz    x0, #0xC400, lsl #16        // RSI_VERSION; without an RMM it is undefined or refused
    movk    x0, #0x0190
    movz    x1, #1, lsl #16             // 1.0
    smc     #0
    cbnz    x28, normal_vm
    cbnz    x0, normal_vm
    mov     x21, x1

    movz    x0, #0xC400, lsl #16        // RSI_REALM_CONFIG
    movk    x0, #0x0196
    adr     x22, realm_config
    mov     x1, x22
    smc     #0
    cbnz    x0, power_off               // no output possible: the UART's address is unknown

    ldr     x23, [x22]                  // ipa_width; devices are in the upper, unprotected half
    sub     x1, x23, #1
    mov     x0, #1
    lsl     x0, x0, x1
    orr     x19, x19, x0
    ldrb    w24, [x22, #8]              // hash_algo: 0 SHA-256, 1 SHA-512, 2 SHA-384
    mov     x20, #32
    lsl     x20, x20, x24
    mov     x9, #48
    cmp     x24, #2
    csel    x20, x9, x20, eq

    adr     x0, text_realm
    bl      put_text
    adr     x0, text_version
    bl      put_text
    ubfx    x0, x21, #16, #15
    bl      put_decimal
    mov     w0, #46                     // '.'
    bl      put_byte
    and     x0, x21, #0xFFFF
    bl      put_decimal
    adr     x0, text_width
    bl      put_text
    mov     x0, x23
    bl      put_decimal
    adr     x0, text_algorithm
    bl      put_text
    lsl     x0, x20, #3                 // the algorithm's name is the number of bits
    bl      put_decimal

    mov     x25, #0                     // index: 0 the RIM, 1 to 4 the REMs
measurement:
    adr     x0, text_rim
    cbz     x25, name_it
    adr     x0, text_rem
name_it:
    bl      put_text
    cbz     x25, read_it
    sub     x0, x25, #1
    bl      put_decimal
    adr     x0, text_gap
    bl      put_text
read_it:
    movz    x0, #0xC400, lsl #16        // RSI_MEASUREMENT_READ
    movk    x0, #0x0192
    mov     x1, x25
    smc     #0
    cbnz    x0, next
    adr     x9, measured
    stp     x1, x2, [x9]
    stp     x3, x4, [x9, #16]
    stp     x5, x6, [x9, #32]
    stp     x7, x8, [x9, #48]
    mov     x26, x9
    add     x27, x9, x20
put_next:
    ldrb    w0, [x26], #1
    bl      put_hex
    cmp     x26, x27
    b.ne    put_next
next:
    add     x25, x25, #1
    cmp     x25, #5
    b.ne    measurement

    adr     x0, text_end
    bl      put_text
power_off:
    movz    x0, #0x8400, lsl #16        // PSCI SYSTEM_OFF
    movk    x0, #0x0008
    smc     #0
    b       power_off

normal_vm:
    adr     x0, text_normal
    bl      put_text
    movz    x0, #0x8400, lsl #16        // PSCI SYSTEM_OFF
    movk    x0, #0x0008
    hvc     #0
    b       normal_vm

// x0: the zero-terminated text to print; changes x0 and x2.
put_text:
    mov     x2, x0
put_text_next:
    ldrb    w0, [x2], #1
    cbz     w0, return
    strb    w0, [x19]
    b       put_text_next

// w0: the byte to print as two digits; changes x0 and x2.
put_hex:
    lsr     w2, w0, #4
    and     w0, w0, #15
    str     x30, [sp, #-16]!
    str     x0, [sp, #8]
    mov     w0, w2
    bl      put_digit
    ldr     x0, [sp, #8]
    bl      put_digit
    ldr     x30, [sp], #16
    ret
put_digit:
    add     w0, w0, #48                 // '0'
    cmp     w0, #58
    b.lo    put_byte
    add     w0, w0, #39                 // 'a'
put_byte:
    strb    w0, [x19]
return:
    ret

// x0: the number to print, below 1000; changes x0 to x4.
put_decimal:
    mov     x1, #10
    mov     x4, sp
    sub     x3, sp, #16
    mov     sp, x3
    mov     x3, x4
put_decimal_next:
    udiv    x2, x0, x1
    msub    x0, x2, x1, x0
    add     w0, w0, #48
    strb    w0, [x3, #-1]!
    mov     x0, x2
    cbnz    x0, put_decimal_next
put_decimal_out:
    ldrb    w0, [x3], #1
    strb    w0, [x19]
    cmp     x3, x4
    b.ne    put_decimal_out
    mov     sp, x4
    ret

text_normal:
    .asciz  "Hello from a normal VM: there is no RMM here (pyvmm run --realm has one).\r\n"
text_realm:
    .asciz  "Hello from a realm.\r\n"
text_version:
    .asciz  "RSI version     "
text_width:
    .asciz  "\r\nIPA width       "
text_algorithm:
    .asciz  " bits\r\nMeasurements    SHA-"
text_rim:
    .asciz  "\r\nRIM             "
text_rem:
    .asciz  "\r\nREM "
text_gap:
    .asciz  "           "
text_end:
    .asciz  "\r\n"

// Any exception: record it and continue after the instruction.
    .balign 2048
vectors:
    .space  512
    mov     x28, #1
    mrs     x0, elr_el1
    add     x0, x0, #4
    msr     elr_el1, x0
    eret

// Zero-initialised, after the end of the file: the stack grows down to here.
    .balign 4096
realm_config:
    .set    measured, realm_config + 4096
    .set    stack_end, realm_config + 8192
