// C after SUBS is "no borrow".
//< x1=1 x2=2
subs w0, w1, w2
//> x0=0xffffffff nzcv=0x8
