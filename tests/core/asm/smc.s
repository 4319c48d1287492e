// SMC is UNDEFINED at EL0.
smc #0
//> esr=0x02000000
