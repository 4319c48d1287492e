// SYSL of an encoding that no extension defines is UNDEFINED.
.word 0xd52b7420
//> esr=0x02000000
