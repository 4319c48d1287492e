// Of zeros the positive one is the greater, whatever their order.
//< v1=0x8000000000000000 v2=0
fmax d0, d1, d2
fminnm d3, d2, d1
//> v0=0 v3=0x8000000000000000
