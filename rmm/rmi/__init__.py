"""The host's commands, one file per object of the specification, and the command tables."""

from collections.abc import Mapping
from typing import Final

from pyvmm.arch.rmi_revisions import VERSION_1_0
from rmm.commands import RmiCommand, table
from rmm.rmi import data, debug, features, granule, metadata, psci, realm, rec, rtt

RMI_1_0: Final = table(
    (
        features.version,
        features.features,
        granule.granule_delegate,
        granule.granule_undelegate,
        data.data_create,
        data.data_create_unknown,
        data.data_destroy,
        realm.realm_activate,
        realm.realm_create,
        realm.realm_destroy,
        rec.rec_aux_count,
        rec.rec_create,
        rec.rec_destroy,
        rec.rec_enter,
        rtt.rtt_create,
        rtt.rtt_destroy,
        rtt.rtt_fold,
        rtt.rtt_init_ripas,
        rtt.rtt_map_unprotected,
        rtt.rtt_read_entry,
        rtt.rtt_set_ripas,
        rtt.rtt_unmap_unprotected,
        psci.psci_complete,
    )
)
ISLET_RMI: Final = table((metadata.islet_realm_set_metadata,))

DEBUG_RMI: Final = table(
    (
        debug.pyvmm_debug_allow,
        debug.pyvmm_debug_read_registers,
        debug.pyvmm_debug_write_registers,
        debug.pyvmm_debug_read_memory,
        debug.pyvmm_debug_write_memory,
        debug.pyvmm_debug_set_points,
    )
)

#: The final revisions of the interface, each with its commands; ``rmm.rmi2`` has the beta.
REVISIONS: Final[Mapping[int, Mapping[int, RmiCommand]]] = {
    VERSION_1_0: RMI_1_0 | ISLET_RMI | DEBUG_RMI
}
