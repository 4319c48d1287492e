// The least integer divided by -1 is itself: no trap.
//< x1=0x8000000000000000 x2=0xffffffffffffffff
sdiv x0, x1, x2
//> x0=0x8000000000000000
