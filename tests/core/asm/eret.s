// ERET is UNDEFINED at EL0.
eret
//> esr=0x02000000
