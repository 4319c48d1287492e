"""RSI_REALM_CONFIG: a realm reads the width of its IPA space."""

from pyvmm.arch.pas import GRANULE_OFFSET
from pyvmm.arch.rsi import RealmConfig, RsiFid, RsiStatus
from rmm.commands import rsi_command
from rmm.errors import RsiError
from rmm.rec import Rec
from rmm.rmm import Rmm


@rsi_command(RsiFid.RSI_REALM_CONFIG)
def realm_config(rmm: Rmm, rec: Rec, ipa: int) -> tuple[int, ...]:
    """Write RsiRealmConfig to the realm's page at ``ipa``.

    Spec: DEN0137 1.0, RSI_REALM_CONFIG.
    Raises: RsiError(ERROR_INPUT) if ``ipa`` is not a protected page or its RIPAS is EMPTY.
    """
    realm = rec.realm
    if ipa & GRANULE_OFFSET or not realm.rtt.is_protected(ipa):
        raise RsiError(RsiStatus.ERROR_INPUT)
    pa = realm.rtt.ram_page(ipa)
    config = RealmConfig.of(ipa_width=realm.rtt.ipa_bits, hash_algo=realm.hash_algo, rpv=realm.rpv)
    rmm.memory.write(pa, config.data)
    return (RsiStatus.SUCCESS,)
