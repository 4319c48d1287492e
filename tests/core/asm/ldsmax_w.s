// LDSMAX of a word leaves the next word alone.
//< x1=0xffffffff x2=@0 [0]=0x1122334480000000
.word 0xb8214040 // ldsmax w1, w0, [x2]
//> x0=0x80000000 [0]=0x11223344ffffffff
