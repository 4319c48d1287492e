// One divided by minus zero is minus infinity and raises DZC.
//< v1=0x3ff0000000000000 v2=0x8000000000000000
fdiv d0, d1, d2
//> v0=0xfff0000000000000 fpsr=2
