// SVC takes an exception to EL1 with its immediate in the syndrome.
svc #0x1234
//> esr=0x56001234
