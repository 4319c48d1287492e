"""The host's commands in RMI 2.0 where they differ from 1.0, one file per object."""

from collections.abc import Mapping
from typing import Final

from pyvmm.arch.rmi_revisions import VERSION_2_0
from rmm.commands import RmiCommand, table
from rmm.rmi import DEBUG_RMI, ISLET_RMI, REVISIONS
from rmm.rmi import features as features_1
from rmm.rmi import realm as realm_1
from rmm.rmi import rtt as rtt_1
from rmm.rmi2 import features, granule, mapping, operation, psci, realm, rec, rtt, state

RMI_2_0: Final = table(
    (
        features_1.version,
        features.features,
        state.rmm_config_get,
        state.rmm_config_set,
        state.rmm_state_get,
        state.rmm_activate,
        state.rmm_deactivate,
        granule.granule_tracking_get,
        granule.granule_tracking_set,
        granule.granule_range_delegate,
        granule.granule_range_undelegate,
        granule.gpt_l1_create,
        granule.gpt_l1_destroy,
        granule.gpt_info,
        mapping.rtt_data_map_init,
        mapping.rtt_data_map,
        mapping.rtt_data_unmap,
        mapping.rtt_unprot_map,
        mapping.rtt_unprot_unmap,
        realm_1.realm_activate,
        realm.realm_create,
        realm.realm_destroy,
        realm.realm_terminate,
        rec.rec_create,
        rec.rec_destroy,
        rec.rec_enter,
        rtt_1.rtt_create,
        rtt_1.rtt_destroy,
        rtt_1.rtt_fold,
        rtt.rtt_init_ripas,
        rtt.rtt_read_entry,
        rtt_1.rtt_set_ripas,
        psci.psci_complete,
        operation.op_continue,
        operation.op_mem_donate,
        operation.op_mem_reclaim,
        operation.op_cancel,
    )
)

#: All revisions of the interface, each with its commands.
ALL_REVISIONS: Final[Mapping[int, Mapping[int, RmiCommand]]] = {
    **REVISIONS,
    VERSION_2_0: RMI_2_0 | ISLET_RMI | DEBUG_RMI,
}
