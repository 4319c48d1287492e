// A signalling NaN is quieted and raises IOC.
//< v1=0x7ff0000000000001 v2=0x3ff0000000000000
fadd d0, d1, d2
//> v0=0x7ff8000000000001 fpsr=1
