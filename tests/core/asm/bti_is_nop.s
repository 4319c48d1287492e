// BTI, and PACIASP while its key is not enabled, change nothing.
hint #34
hint #25
//> x0=0
