// DAIFSet at EL0 without SCTLR_EL1.UMA is a trapped MSR: op0 0, op1 3, CRn 4, CRm 2, op2 6, Rt 31.
msr daifset, #2
//> esr=0x620cd3e4
