"""RMI_ISLET_REALM_SET_METADATA: the host passes on the metadata of a realm's owner."""

from pyvmm.arch.islet import IsletRmiFid, RealmMetadata
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiStatus
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED, METADATA
from rmm.realm import RealmState
from rmm.rmm import Rmm
from rmm.sealing import is_valid


@rmi_command(IsletRmiFid.RMI_ISLET_REALM_SET_METADATA)
def islet_realm_set_metadata(rmm: Rmm, rd: int, mdg: int, meta_ptr: int) -> None:
    """Set the metadata of a new realm, once; ``mdg`` is lent to the realm for it.

    Spec: Islet, RMI_ISLET_REALM_SET_METADATA.
    Raises: RmiError(ERROR_INPUT) if the block at ``meta_ptr`` is not the host's, not valid or not
    signed, or the realm does not exist; (ERROR_REALM) if it is not NEW or already has metadata;
    then (ERROR_INPUT) if ``mdg`` is not DELEGATED.
    """
    metadata = RealmMetadata(rmm.read_ns(meta_ptr, GRANULE_SIZE))
    if not is_valid(metadata):
        raise RmiError(RmiStatus.ERROR_INPUT)
    realm = rmm.realm(rd)
    if realm.state is not RealmState.NEW or realm.metadata is not None:
        raise RmiError(RmiStatus.ERROR_REALM)
    rmm.granules.require(mdg, DELEGATED)
    rmm.granules.move(mdg, METADATA)
    realm.metadata, realm.metadata_pa = metadata, mdg
