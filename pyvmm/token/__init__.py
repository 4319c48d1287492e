"""CCA attestation tokens: strict CBOR, COSE_Sign1 and the claim tables, for makers and verifiers.

`generations` says which formats there are; `claims` what a token holds; `make` builds one.
"""
