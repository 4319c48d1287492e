// A write to a W register zeroes the high half.
//< x0=0xffffffffffffffff
mov w0, #5
//> x0=5
