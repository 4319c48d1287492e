// The lesser number, also of denormal ones; the rest of the register is cleared.
//< v0=0xffffffffffffffffffffffffffffffff v1=0xaaaaaaaa00000001 v2=0xbbbbbbbb80000001
fmin s0, s1, s2
fmaxnm s3, s2, s1
//> v0=0x80000001 v3=1
