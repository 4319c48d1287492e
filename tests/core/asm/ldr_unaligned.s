// An unaligned load from Normal memory gives the bytes that are there.
//< x1=@3 [0]=0x8877665544332211 [8]=0xffeeddccbbaa9900
ldr x0, [x1]
//> x0=0xaa99008877665544
