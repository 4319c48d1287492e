"""Realm metadata and sealing keys: which realm gets which key."""

import hashlib
import hmac
import random
import struct
from collections.abc import Sequence
from functools import cache

import pytest

from pyvmm.arch.events import Event, RsiCall
from pyvmm.arch.islet import (
    METADATA_SIZE,
    SIGNED_SIZE,
    IsletRmiFid,
    IsletRsiFid,
    RealmMetadata,
    SealingFlags,
    VhukId,
)
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RecExitReason, RmiFid
from pyvmm.arch.rmmd import RmmdFid
from pyvmm.arch.rsi import RsiStatus
from pyvmm.token.ecdsa import public_point
from rmm.granule import GranuleState
from tests.rmm.metadata import OWNER, realm_metadata
from tests.rmm.test_granule import granule_in
from tests.rmm.world import FakeEl3, World, smc
from tests.token.keys import key

SET_METADATA = IsletRmiFid.RMI_ISLET_REALM_SET_METADATA
SEALING_KEY = IsletRsiFid.RSI_ISLET_REALM_SEALING_KEY
ACTIVATE = RmiFid.RMI_REALM_ACTIVATE
ERROR_INPUT, ERROR_REALM = 1, 2
VHUKS = {VhukId.VHUK_A: bytes(range(32)), VhukId.VHUK_M: bytes(range(100, 132))}
SVN = SealingFlags.SVN
RPV = b"p" * 64
SALT = bytes.fromhex("d5775f524ace3221ce771ed274bb74a460ce3fb9749ce37d0ae6d2e907f8b54b")


class VhukEl3(FakeEl3):
    """An EL3 with virtual hardware unique keys."""

    def smc(self, pe: int, args: Sequence[int]) -> tuple[int, ...]:
        """Give one in four registers."""
        if args[0] == RmmdFid.ISLET_GET_VHUK:
            return (0, *struct.unpack("<4Q", VHUKS[VhukId(args[1])]))
        return super().smc(pe, args)


def new_realm(world: World, hash_algo: int = 0) -> tuple[int, int]:
    """Make a NEW realm; returns it and its REC."""
    rd = world.realm(depth=0, rpv=RPV, hash_algo=hash_algo)
    return rd, world.rec(rd)


@cache
def rim_of(hash_algo: int) -> bytes:
    """Return the RIM, padded, of such a realm."""
    world = World()
    rd, _ = new_realm(world, hash_algo)
    return world.rmm.realms[rd].measurements.padded(0)


def metadata_of(
    owner: str = OWNER, realm_algo: int = 0, /, **changes: int | bytes
) -> RealmMetadata:
    """Make metadata about such a realm."""
    about: dict[str, int | bytes] = {"rim": rim_of(realm_algo), "hash_algo": realm_algo + 1}
    return realm_metadata(owner, **{**about, **changes})


class Guest:
    """A realm that runs, with metadata or without."""

    def __init__(self, metadata: RealmMetadata | None = None, hash_algo: int = 0) -> None:
        self.world = World(VhukEl3)
        self.rd, self.rec = new_realm(self.world, hash_algo)
        if metadata is not None:
            mdg, source = self.world.delegated(), self.world.ns_granule(metadata.data)
            self.world.do(SET_METADATA, self.rd, mdg, source)
        self.world.do(ACTIVATE, self.rd)

    def ask(self, flags: int, svn: int = 0) -> tuple[int, bytes]:
        """Ask for a sealing key; returns status and key."""
        leave = self.world.enter(self.rec, smc(SEALING_KEY, flags, svn))
        assert leave.exit_reason == RecExitReason.IRQ
        status, *words = self.world.context(self.rec).x[:5]
        return status, struct.pack("<4Q", *words)

    def key(self, flags: int, svn: int = 0) -> bytes:
        """Get a sealing key."""
        status, sealing_key = self.ask(flags, svn)
        assert status == RsiStatus.SUCCESS
        return sealing_key


def expected_key(
    flags: int, svn: int, metadata: RealmMetadata | None = None, hash_algo: int = 0
) -> bytes:
    """Derive a key as specified: RFC 5869 over the concatenated fields."""
    has_rim = flags & 2 or metadata is None
    info = b"".join(
        (
            metadata.public_key if metadata else bytes(96),
            metadata.realm_id if metadata and flags & 4 else bytes(128),
            RPV,
            flags.to_bytes(8, "little"),
            rim_of(hash_algo) if has_rim else bytes(64),
            bytes([hash_algo if has_rim else 0]),
            (svn if metadata and flags & 8 else 0).to_bytes(8, "little"),
        )
    )
    assert len(info) == 369
    vhuk = VHUKS[VhukId.VHUK_M if flags & 1 else VhukId.VHUK_A]
    prk = hmac.digest(SALT, vhuk, hashlib.sha256)
    return hmac.digest(prk, info + b"\1", hashlib.sha256)


# --- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_algo", [0, 1])
@pytest.mark.parametrize("flags", [*range(16), 1 << 63 | 5])
def test_key_is_bound_to_the_selected_values(flags: int, hash_algo: int) -> None:
    """With metadata and without, byte for byte."""
    metadata = metadata_of(OWNER, hash_algo)
    keys = {
        Guest(metadata, hash_algo).key(flags, 3): expected_key(flags, 3, metadata, hash_algo),
        Guest(None, hash_algo).key(flags, 3): expected_key(flags, 3, None, hash_algo),
    }
    assert all(key == expected for key, expected in keys.items())
    assert len(keys) == 2


def test_every_choice_gives_another_key() -> None:
    """And the same choice gives the same key."""
    guest = Guest(metadata_of())
    keys = {(flags, svn): guest.key(flags, svn) for flags in range(16) for svn in (1, 2)}
    assert keys == {(flags, svn): guest.key(flags, svn) for flags, svn in keys}
    for (flags, svn), sealing_key in keys.items():
        same = {choice for choice, other in keys.items() if other == sealing_key}
        assert same == ({(flags, svn)} if flags & SVN else {(flags, 1), (flags, 2)})


def test_owner_decides_what_an_update_may_read() -> None:
    """The same owner's next version gets the old keys by id and SVN; another owner's does not."""
    flags = SealingFlags.REALM_ID | SVN
    old, new = Guest(metadata_of(svn=5)), Guest(metadata_of(svn=6, version_major=2))
    other, thief = Guest(metadata_of(realm_id=b"other")), Guest(metadata_of("thief"))
    assert new.key(flags, 5) == old.key(flags, 5)
    assert new.key(flags, 6) not in {old.key(flags, svn) for svn in range(1, 6)}
    assert other.key(flags, 5) != old.key(flags, 5)
    assert thief.key(flags, 5) != old.key(flags, 5)


@pytest.mark.parametrize("svn", [0, 6, (1 << 64) - 1])
def test_svn_above_the_realms_own_gives_no_key(svn: int) -> None:
    """An old realm cannot read the data of a newer one; zero is not an SVN."""
    guest = Guest(metadata_of(svn=5))
    status, registers = guest.ask(SVN, svn)
    assert (status, registers[:24]) == (RsiStatus.ERROR_INPUT, bytes(24))
    assert guest.key(0, svn) == guest.key(0, 1)  # it is not asked for


def test_key_is_in_no_trace() -> None:
    """A trace contains the call without the key."""
    guest = Guest()
    seen: list[Event] = []
    guest.world.rmm.events.listener = seen.append
    sealing_key = guest.key(SealingFlags.RIM)
    (call,) = (event for event in seen if isinstance(event, RsiCall))
    assert call.results == (RsiStatus.SUCCESS,)
    words = struct.unpack("<4Q", sealing_key)
    assert not [event for event in seen for word in words if f"{word:x}" in str(event)]


def test_no_key_without_the_platforms_keys() -> None:
    """The RMM does not invent one."""
    world = World()
    rd, rec = new_realm(world)
    world.do(ACTIVATE, rd)
    world.enter(rec, smc(SEALING_KEY, 0, 0))
    assert world.context(rec).x[:4] == [RsiStatus.ERROR_UNKNOWN, 0, 0, 0]


# --- metadata ---------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    """An RMM."""
    return World()


def test_metadata_are_kept_to_the_realms_end(world: World) -> None:
    """Their granule comes back with it, scrubbed."""
    rd, rec = new_realm(world)
    mdg = world.delegated()
    world.do(SET_METADATA, rd, mdg, world.ns_granule(metadata_of().data))
    assert world.rmm.granules.state(mdg) is GranuleState.METADATA
    assert world.call(RmiFid.RMI_GRANULE_UNDELEGATE, mdg)[0] == ERROR_INPUT
    world.do(RmiFid.RMI_REC_DESTROY, rec)
    world.do(RmiFid.RMI_REALM_DESTROY, rd)
    assert world.rmm.granules.state(mdg) is GranuleState.DELEGATED
    assert world.realm_memory.read(mdg, GRANULE_SIZE) == bytes(GRANULE_SIZE)


def refused(world: World, rd: int, mdg: int, source: int) -> int:
    """Set metadata that are refused without an effect; returns the status."""
    before = world.snapshot()
    status, *rest = world.call(SET_METADATA, rd, mdg, source)
    assert rest == [0, 0, 0, 0]
    assert world.snapshot() == before
    return status


@pytest.mark.parametrize(
    "changes",
    [
        {"fmt_version": 0},
        {"fmt_version": 2},
        {"hash_algo": 0},
        {"hash_algo": 3},
        {"svn": 0},
        {"realm_id": b""},
        {"realm_id": b"x" * 128},
        {"realm_id": b"new\nline"},
        {"realm_id": "ümlaut".encode()},
        {"public_key": bytes(96)},
        {"public_key": b"\xff" * 96},
        {"public_key": public_point(key("another"))[1:]},
    ],
)
def test_metadata_that_are_not_valid_are_refused(
    world: World, changes: dict[str, int | bytes]
) -> None:
    """Even if signed."""
    rd, _ = new_realm(world)
    source = world.ns_granule(realm_metadata(**changes).data)
    assert refused(world, rd, world.delegated(), source) == ERROR_INPUT


def test_every_bit_is_signed(world: World, seed: int) -> None:
    """Of the signed data and of the signature; the rest of the granule is unused."""
    rd, _ = new_realm(world)
    mdg, source = world.delegated(), world.ns_granule()
    rng, good = random.Random(seed), metadata_of().data
    for at in [*rng.sample(range(METADATA_SIZE), 100), 0, SIGNED_SIZE - 1, METADATA_SIZE - 1]:
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        world.ns.write(source, bad)
        assert world.call(SET_METADATA, rd, mdg, source)[0] == ERROR_INPUT
    good[METADATA_SIZE] ^= 1
    world.ns.write(source, good)
    world.do(SET_METADATA, rd, mdg, source)


@pytest.mark.parametrize("state", sorted(set(GranuleState) - {GranuleState.DELEGATED}))
def test_metadata_need_a_delegated_granule(world: World, state: GranuleState) -> None:
    """In any other state it is refused."""
    bad = granule_in(world, state)
    rd = world.realm(depth=0, vmid=9)
    source = world.ns_granule(metadata_of().data)
    assert refused(world, rd, bad, source) == ERROR_INPUT


@pytest.mark.parametrize("state", sorted(set(GranuleState) - {GranuleState.RD}))
def test_metadata_need_a_realm(world: World, state: GranuleState) -> None:
    """And the host's own granule with the block."""
    bad = granule_in(world, state)
    source, mdg = world.ns_granule(metadata_of().data), world.delegated()
    assert refused(world, bad, mdg, source) == ERROR_INPUT
    if state is not GranuleState.UNDELEGATED:
        rd = world.realm(depth=0, vmid=9)
        assert refused(world, rd, mdg, bad) == ERROR_INPUT


def test_metadata_are_set_once(world: World) -> None:
    """And before the realm is activated."""
    rd, _ = new_realm(world)
    mdg, source = world.delegated(), world.ns_granule(metadata_of().data)
    world.do(SET_METADATA, rd, mdg, source)
    assert refused(world, rd, world.delegated(), source) == ERROR_REALM
    world.do(ACTIVATE, rd)
    assert refused(world, rd, world.delegated(), source) == ERROR_REALM
    other = world.realm(depth=0, vmid=9)
    world.do(ACTIVATE, other)
    assert refused(world, other, world.delegated(), source) == ERROR_REALM


@pytest.mark.parametrize(
    ("hash_algo", "changes"),
    [
        (0, {"rim": bytes(64)}),
        (0, {"rim": rim_of(0)[:32] + b"\1".ljust(32, b"\0")}),
        (0, {"hash_algo": 2}),
        (1, {"hash_algo": 1}),
        (1, {"rim": rim_of(0)}),
    ],
)
def test_realm_with_other_metadata_is_not_activated(
    world: World, hash_algo: int, changes: dict[str, int | bytes]
) -> None:
    """If hash algorithm or RIM differ."""
    rd, _ = new_realm(world, hash_algo)
    source = world.ns_granule(metadata_of(OWNER, hash_algo, **changes).data)
    world.do(SET_METADATA, rd, world.delegated(), source)
    before = world.snapshot()
    assert world.call(ACTIVATE, rd) == (ERROR_REALM, 0, 0, 0, 0)
    assert world.snapshot() == before
