// HVC is UNDEFINED at EL0.
hvc #0
//> esr=0x02000000
