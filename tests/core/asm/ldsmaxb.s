// LDSMAXB compares signed bytes: 0x80 is the least.
//< x1=1 x2=@0 [0]=0x80
.word 0x38214040 // ldsmaxb w1, w0, [x2]
//> x0=0x80 [0]=1
