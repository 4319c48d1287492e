// LDSMIN of a word with the greater operand stores the old value back.
//< x1=5 x2=@0 [0]=0x11223344fffffffe
.word 0xb8215040 // ldsmin w1, w0, [x2]
//> x0=0xfffffffe [0]=0x11223344fffffffe
