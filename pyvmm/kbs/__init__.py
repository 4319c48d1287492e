"""The key broker: releases secrets to realms whose attestation tokens verify."""
