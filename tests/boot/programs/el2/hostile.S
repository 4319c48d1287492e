// What a hostile program at EL2 tries: each of these returns 0 in x0 if an exception ends it.
    .text
    .globl  read_word, write_word, execute, read_at_el1, hostile_vectors, code_of

read_word:                      // uint64_t read_word(uint64_t address)
    ldr     x0, [x0]
    ret

write_word:                     // uint64_t write_word(uint64_t address, uint64_t value)
    str     x1, [x0]
    ret

execute:                        // uint64_t execute(code, value): code is an instruction with x0 = value, and RET
    mov     x9, x0
    mov     x0, x1
    br      x9

read_at_el1:                    // uint64_t read_at_el1(uint64_t address)
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x9, sp
    msr     tpidr_el2, x9
    adr     x9, at_el1
    msr     elr_el2, x9
    mov     x9, #0x3c5
    msr     spsr_el2, x9
    adr     x9, el1_vectors
    msr     vbar_el1, x9
    isb
    eret
at_el1:
    ldr     x0, [x0]
    hvc     #0
back_from_el1:
    mrs     x9, tpidr_el2
    mov     sp, x9
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

    .macro  vector handler
    .balign 0x80
    b       \handler
    .endm

    .balign 0x800
hostile_vectors:
    .rept   4
    vector  lost
    .endr
    vector  at_el2
    .rept   3
    vector  lost
    .endr
    vector  from_el1
    .rept   3
    vector  interrupted_el1
    .endr
    .rept   4
    vector  lost
    .endr

    .balign 0x800
el1_vectors:
    .rept   16
    .balign 0x80
    mov     x0, #0
    hvc     #1
    .endr

from_el1:
    mrs     x9, esr_el2
    lsr     x9, x9, #26
    cmp     x9, #0x16           // HVC: x0 is what it read
    csel    x0, x0, xzr, eq
    b       back_from_el1
interrupted_el1:
    mov     x0, #0
    b       back_from_el1

at_el2:                         // only a leaf here or in the generated code may have an exception
    mrs     x9, elr_el2
    adr     x10, read_word
    sub     x10, x9, x10
    cmp     x10, #16
    b.lo    1f
    adrp    x10, code_of
    sub     x10, x9, x10
    cmp     x10, #0x2000
    b.hs    lost
1:  msr     elr_el2, x30
    mov     x0, #0
    eret

lost:
    mrs     x0, esr_el2
    mrs     x1, far_el2
    mrs     x2, elr_el2
    b       die

    .section .bss
    .balign 0x1000
code_of:                        // a page of generated code for each PE
    .space  0x2000
