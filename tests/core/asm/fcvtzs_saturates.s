// A double beyond the range saturates and raises IOC.
//< v1=0x43f0000000000000
fcvtzs x0, d1
//> x0=0x7fffffffffffffff fpsr=1
