    .section .rodata, "a"
    .balign 0x1000
    .globl realm_image, realm_image_end
realm_image:
    .incbin "realm.bin"
    .balign 0x1000
realm_image_end:
