"""The measurements of RMI 2.0: vectors that a script of its own computed from the rules."""

import hashlib
from array import array

import pytest

from pyvmm.arch.events import Event, EventStream, RimExtension
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import HashAlgorithm, RecParams, RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from pyvmm.platform import replay
from tests.rmm.world2 import World2

PAGE = GRANULE_SIZE
CONTENT = bytes(7 * i & 0xFF for i in range(PAGE))
VECTORS = {
    HashAlgorithm.SHA_256: (
        "706cc9194cfdcfbf73b06ad3c084c5eb3f3148408780f9000c256531f97ff724",
        "2a4b7d4329955c12dbab65155bb7419327beb41d0498bc7634d2b13e23714a3b",
        "60c0b7930933391ea6f5076da6e4816db5a200d7904a747399e5aa2b719a0ddd",
    ),
    HashAlgorithm.SHA_384: (
        (
            "51db7e99135dded4b52e75129dabaa9be1cf79fd2183a2a635af50227ad8d00e"
            "8cc62824b1638754905ce2da3b364f8c"
        ),
        (
            "abc194e44fd9751f075dc047e0b97e748c551b6c5b506ec880d1f93f2a7792dc"
            "463e7fa28c898c1d31299cfc6976f473"
        ),
        (
            "4919fa9be8a08ae1dae65aa0a0d08e979051eb022fa689f710ac09a73c31f928"
            "ce145616d478af2c1b8070f944cdd1d3"
        ),
    ),
    HashAlgorithm.SHA_512: (
        (
            "34d71e60e525dbd345d3f73848ab436632fd5637b16675aaba594b5b16cba0a2"
            "3e569efba6805cd0553497690022c5145ce118f7f1cb550cffc5d75c2484f764"
        ),
        (
            "0347e60e0d184a43f346aa1e68c16638f57f8ba4deb3e0f78eb1b45366374420"
            "2b9e1f7e2fba19c8cead6528e6a2938a39c989a5f8fb8a8fd2d996d94dcf2eae"
        ),
        (
            "e84993889ed0c9e09bf9b3ae2d9852779506b49131464936edd7c3c8108ca410"
            "210eba3b415f658b27fc517eefe8e2d69e1dbc48d20e6a84760c0136a962bcc8"
        ),
    ),
}


@pytest.mark.parametrize("algorithm", VECTORS)
def test_vectors(algorithm: HashAlgorithm) -> None:
    """Zero; a measured page; one that is not; a REC. Nothing else counts."""
    world = World2()
    rd = world.realm(hash_algo=algorithm)
    rim = world.rmm.realms[rd].measurements.values
    assert not any(rim[0])
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, 16 * PAGE)
    source = world.ns_granule(CONTENT)
    world.do(Rmi2Fid.RMI_RTT_DATA_MAP_INIT, rd, world.delegated(), 0x1000, source, 1)
    assert rim[0].hex() == VECTORS[algorithm][0]
    world.do(Rmi2Fid.RMI_RTT_DATA_MAP_INIT, rd, world.delegated(), 0x2000, source, 0)
    assert rim[0].hex() == VECTORS[algorithm][1]
    world.do(Rmi2Fid.RMI_RTT_DATA_MAP, rd, 0x3000, 0x4000, 1, world.delegated() | 1 << 2)
    world.rec(rd, mpidr=1, flags=0)
    assert rim[0].hex() == VECTORS[algorithm][1]
    world.rec(rd, gprs=tuple(0x1111 * (i + 1) for i in range(8)))
    assert rim[0].hex() == VECTORS[algorithm][2]


def test_first_page_by_hand() -> None:
    """The descriptor of a page, from the text."""
    words = array("Q", [0, 0x100, *[0] * 8, 0x1000, 1])
    descriptor = words.tobytes() + hashlib.sha256(CONTENT).digest()
    expected = hashlib.sha256(descriptor.ljust(0x100, b"\0")).hexdigest()
    assert expected == VECTORS[HashAlgorithm.SHA_256][0]


def test_params_are_not_measured() -> None:
    """Nor is what is beyond the members of a REC's."""
    rims = []
    for s2sz, junk in ((33, b""), (33, b"junk"), (34, b"")):
        world = World2()
        rd = world.realm(s2sz=s2sz, rtt_num_start=1)
        params = RecParams.of(flags=1, pc=0x1000)
        params.data[0x800 : 0x800 + len(junk)] = junk
        page = world.ns_granule(params.data)
        world.must_operate(RmiFid.RMI_REC_CREATE, rd, world.delegated(), page)
        rims.append(world.rmm.realms[rd].measurements.values[0])
    assert len(set(rims)) == 1


def test_log_repeats_the_computation() -> None:
    """What `measure --log` shows is what was measured."""
    steps: list[RimExtension] = []

    def listen(event: Event) -> None:
        if isinstance(event, RimExtension):
            steps.append(event)

    world = World2()
    world.rmm.events.listener = listen
    rd = world.realm(hash_algo=2)
    source = world.ns_granule(CONTENT)
    world.do(Rmi2Fid.RMI_RTT_DATA_MAP_INIT, rd, world.delegated(), 0x1000, source, 1)
    world.rec(rd)
    assert [step.step for step in steps] == ["REALM_CREATE", "DATA", "REC"]
    assert steps[0].fields == (("rmi", 0x2_0000), ("hash_algo", 2))
    assert replay(steps) == steps
    assert isinstance(world.rmm.events, EventStream)
