// The bits of a word in reverse order; the upper half of the register is cleared.
//< x1=0xffffffff0000b001 x2=0x0123456789abcdef
rbit w0, w1
rbit x3, x2
rev16 w4, w2
//> x0=0x800d0000 x3=0xf7b3d591e6a2c480 x4=0xab89efcd
