"""The host's side of the guest agent: commands and reports from inside a guest."""
