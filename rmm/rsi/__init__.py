"""The calls of a realm: RSI, one file per object of the specification, PSCI and SMCCC."""

from typing import Final

from rmm import psci
from rmm.commands import table
from rmm.rsi import attestation, config, features, host_call, ipa_state, measurement, sealing

RSI_1_0: Final = table(
    (
        features.version,
        features.features,
        measurement.measurement_read,
        measurement.measurement_extend,
        attestation.attestation_token_init,
        attestation.attestation_token_continue,
        config.realm_config,
        ipa_state.ipa_state_set,
        ipa_state.ipa_state_get,
        host_call.host_call,
    )
)

ISLET_RSI: Final = table((sealing.islet_realm_sealing_key,))

REALM_CALLS: Final = {**RSI_1_0, **ISLET_RSI, **psci.PSCI_1_1}
