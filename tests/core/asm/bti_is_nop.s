// Hints of extensions that are not advertised are NOPs.
hint #34
hint #25
//> x0=0
