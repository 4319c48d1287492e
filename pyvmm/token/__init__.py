"""CCA attestation tokens: strict CBOR, COSE_Sign1 and the claim tables, for makers and verifiers.

`generations` lists the formats, `claims` the contents of a token; `make` builds one.
"""
