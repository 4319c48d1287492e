// LDSMINH compares signed halfwords and returns the old one zero-extended.
//< x1=0x8000 x2=@0 [0]=0x7fff
.word 0x78215040 // ldsminh w1, w0, [x2]
//> x0=0x7fff [0]=0x8000
