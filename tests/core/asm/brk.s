// BRK takes a Breakpoint exception with its comment in the syndrome.
brk #0xdead
//> esr=0xf200dead
