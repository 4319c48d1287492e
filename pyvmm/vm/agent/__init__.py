"""The host's side of the guest agent: run commands and get attestation tokens in a guest."""
