// The permanently undefined word is UNDEFINED.
.word 0x00000000
//> esr=0x02000000
