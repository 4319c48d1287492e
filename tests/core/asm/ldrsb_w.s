// LDRSB to a W register extends to 32 bits and zeroes the rest.
//< x1=@0 [0]=0x80
ldrsb w0, [x1]
//> x0=0xffffff80
