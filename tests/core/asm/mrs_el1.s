// A register of EL1 is UNDEFINED at EL0.
mrs x0, sctlr_el1
//> esr=0x02000000
