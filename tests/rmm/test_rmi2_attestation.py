"""Tokens of realms by RMI 2.0: their generation, and the hash that RMI 1.0 does not have."""

import pytest

from pyvmm.arch.rmi import HashAlgorithm, RmiFid
from pyvmm.arch.rsi import RsiFid, RsiStatus
from pyvmm.token.generations import Generation
from rmm.attestation import Attestation
from tests.rmm.world import smc
from tests.rmm.world2 import World2


class Seen(Attestation):
    """Records what would be signed."""

    def __init__(self, generation: Generation) -> None:
        """Have a platform of a generation, and no key."""
        self._generation = generation
        self._rak = bytes.fromhex("04") + bytes(96)
        self.max_token_size = 4096


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        (Generation.G0, Generation.G0),
        (Generation.G1, Generation.G2),
        (Generation.G1B, Generation.G2),
        (Generation.G2, Generation.G2),
        (Generation.G2B, Generation.G2B),
    ],
)
def test_generation(platform: Generation, expected: Generation) -> None:
    """That of RMM 2.0, unless the platform's is of another form altogether."""
    world = World2()
    rd = world.realm(hash_algo=HashAlgorithm.SHA_384)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    world.enter(rec, smc(RsiFid.RSI_ATTESTATION_TOKEN_INIT, *range(8)))
    assert world.context(rec).x[0] == RsiStatus.SUCCESS
    request = world.rmm.recs[rec].token_request
    assert request is not None
    Seen(platform).begin(world.rmm.realms[rd], request)
    assert request.generation is expected
    assert b"sha-384" in request.payload
