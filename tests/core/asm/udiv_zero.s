// Division by zero gives zero.
//< x0=7 x1=5
udiv x0, x1, x2
//> x0=0
