// ADDS sets V when two positives give a negative.
//< x1=0x7fffffffffffffff x2=1
adds x0, x1, x2
//> x0=0x8000000000000000 nzcv=0x9
