// A store exclusive without its load exclusive fails and stores nothing.
//< x1=@0 x2=5 [0]=9
clrex
stxr w0, x2, [x1]
//> x0=1 [0]=9
