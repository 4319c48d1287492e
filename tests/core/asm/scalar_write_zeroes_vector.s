// A write to a D register zeroes the rest of the vector.
//< v0=0xffffffffffffffffffffffffffffffff v1=0x3ff0000000000000
fmov d0, d1
//> v0=0x3ff0000000000000
