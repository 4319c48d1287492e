// An unaligned exclusive faults whatever SCTLR_EL1.A says: Data Abort, alignment.
//< x1=@1
ldxr x0, [x1]
//> esr=0x92000021
