"""The RIM vectors of TF-RMM, step by step, and the REMs."""

import hashlib

import pytest

from pyvmm.arch.events import Event, RimExtension, RttChange
from pyvmm.arch.rmi import RmiFid
from tests.rmm.world import World

PAGE = bytes(7 * i & 0xFF for i in range(4096))
GPRS = tuple(0x1111 * (i + 1) for i in range(8))

#: After REALM_CREATE, INIT_RIPAS of two pages, DATA_CREATE measured and not, REC_CREATE.
VECTORS = {
    0: (
        "6739dfb22b75ee1268d08dfa8369f501bc0b066243553f069f560d1fa1172973",
        "048f3d35d68d283ac2b3b8fe99d350a98f682b66087d57567f6fa325d2e82c08",
        "2a117b7358d73a1683f06eec62f282016e4bb4020e10e4d65424235d5ca45aaf",
        "11ce0af6c5ab62fd704dd024962134a89fad895a3a525d8f33037b655062b94b",
        "7dc6563cdaffb17b1e5035fb4a6c2b0b8f8c2de0d88976ea86ee43e1db7e2f02",
    ),
    1: (
        (
            "799e434048fb57eb9d4f0e2a2b98158720377252deab2bdfcd69b5a8f82237f4"
            "34bd6bb1c75bf160a2d49382f733b3439a3ff769e4ea5dd9a6f72239d44bbbab"
        ),
        (
            "c41dae75591bbaf23790113e5026eec64a84cbb8fa348f9951f7a7b82d728f23"
            "c02d3336c88eda23eafec085775286802b9770aeef6080dc45e7566c8476d44c"
        ),
        (
            "e8497262a38e4c85c093f7150da8fc4543eae010fca05c8b658e4bef952cebf2"
            "2773aaf144adbf0da58fcf8bcca2b4cac36917d50e4e0025f182b9db07bec0a5"
        ),
        (
            "0a129214b410298a4c23b0c2ca8720d3784f7bc9f9c25179592534076324ad76"
            "cda75685c6e91877ae0c7392ddf6d6dbd6a059e64188fc5f06138540159af5ab"
        ),
        (
            "e117fe321e04e5e114b2370423c424897278f9e07915ec3f221f0a866f2e1623"
            "8da485d2545de55d2894219a0055e62b9c087ba11b26f15d0037bf7072fbd63f"
        ),
    ),
}


@pytest.mark.parametrize("hash_algo", [0, 1])
def test_rim_matches_the_vectors(world: World, hash_algo: int) -> None:
    """Every step of building a realm gives the measurement that TF-RMM gives."""
    rims = []
    params = world.realm_params(s2sz=48, rtt_level_start=0, hash_algo=hash_algo, rpv=b"x" * 64)
    rd = world.delegated()
    world.do(RmiFid.RMI_REALM_CREATE, rd, world.ns_granule(params.data))
    measurements = world.rmm.realms[rd].measurements
    rims.append(measurements.values[0].hex())
    world.tables(rd, 0, range(1, 4))
    assert world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0x1000, 0x3000)[0] == 0x3000
    rims.append(measurements.values[0].hex())
    for ipa, flags in ((0x1000, 1), (0x2000, 0)):
        data, src = world.delegated(), world.ns_granule(PAGE)
        world.do(RmiFid.RMI_DATA_CREATE, rd, data, ipa, src, flags)
        rims.append(measurements.values[0].hex())
    world.rec(rd, gprs=GPRS)
    rims.append(measurements.values[0].hex())
    assert tuple(rims) == VECTORS[hash_algo]


def test_steps_of_the_construction_are_events(world: World) -> None:
    """A listener sees what is measured, and the RIM after it; and each entry that changes."""
    rd = world.realm()
    measurements = world.rmm.realms[rd].measurements
    seen: list[Event] = []
    world.rmm.events.listener = seen.append
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0x1000, 0x2000)
    rims = [measurements.values[0].hex()]
    data = world.page(rd, 0x1000)
    rims.append(measurements.values[0].hex())
    world.rec(rd, gprs=GPRS)
    rims.append(measurements.values[0].hex())
    lines = [str(event) for event in seen if isinstance(event, RimExtension | RttChange)]
    assert lines[:-1] == [
        f"RTT rd={rd:#x} ipa=0x1000 level=3 0x0 -> 0x20",
        f"RIM rd={rd:#x} RIPAS base=0x1000 top=0x2000 -> {rims[0]}",
        f"RTT rd={rd:#x} ipa=0x1000 level=3 0x20 -> {data | 0x7DB:#x}",
        f"RIM rd={rd:#x} DATA ipa=0x1000 flags=0x0 content=- -> {rims[1]}",
    ]
    assert lines[-1].startswith(f"RIM rd={rd:#x} REC flags=0x1 pc=0x1000 gprs=0x1111,0x2222,")
    assert lines[-1].endswith(f" -> {rims[2]}")


def test_rec_create_measures_only_runnable_recs(world: World) -> None:
    """A secondary REC starts from CPU_ON, whose entry the realm itself chooses."""
    rd = world.realm()
    measurements = world.rmm.realms[rd].measurements
    before = measurements.values[0]
    world.rec(rd, flags=0)
    assert measurements.values[0] == before
    world.rec(rd, mpidr=1)
    assert measurements.values[0] != before


def test_init_ripas_measures_one_block_once(world: World) -> None:
    """The RIM depends on the depth of the tables: one extension for each entry."""
    rd = world.realm(depth=2)
    measurements = world.rmm.realms[rd].measurements
    old = measurements.values[0]
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, 0x20_0000)
    descriptor = bytearray(0x100)
    descriptor[0] = 2
    descriptor[8:16] = (0x100).to_bytes(8, "little")
    descriptor[0x10:0x30] = old
    descriptor[0x58:0x60] = (0x20_0000).to_bytes(8, "little")
    assert measurements.values[0] == hashlib.sha256(descriptor).digest()


def test_rem_is_the_hash_of_the_old_value_and_the_data(world: World) -> None:
    """REM = H(REM || data), with REMs that start as zeros."""
    measurements = world.rmm.realms[world.realm()].measurements
    measurements.extend_rem(3, b"hello")
    assert measurements.values[3] == hashlib.sha256(bytes(32) + b"hello").digest()
    assert measurements.values[4] == bytes(32)
    assert measurements.padded(3) == measurements.values[3] + bytes(32)
