// A load exclusive lets the store exclusive succeed.
//< x1=@0 x2=5 [0]=9
ldxr x3, [x1]
stxr w0, x2, [x1]
//> x3=9 [0]=5
