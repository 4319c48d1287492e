"""RSI_ATTESTATION_TOKEN_*: a realm's results while EL3 is fast, busy, late or broken."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from pyvmm.arch.esr import hpfar_of
from pyvmm.arch.rmi import RecExitReason, RmiFid
from pyvmm.arch.rmmd import RmmdError, RmmdFid, TokenSignOp
from pyvmm.arch.rsi import RsiFid, RsiStatus
from pyvmm.token.cbor import Tag, Value, decode
from pyvmm.token.cose import Algorithm, Sign1
from pyvmm.token.ecdsa import is_signature
from pyvmm.token.generations import FORMS, PLATFORM_TOKEN, REALM_TOKEN, Generation, OuterTag
from tests.rmm.signer import RAK, RAK_PUBLIC, SigningEl3, binding_of
from tests.rmm.world import SHARED_PA, FakeContext, FakeEl3, FakeMachine, World, smc

INIT, CONTINUE = RsiFid.RSI_ATTESTATION_TOKEN_INIT, RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE
SUCCESS, _, ERROR_STATE, INCOMPLETE, ERROR_UNKNOWN = list(RsiStatus)
PAGE_IPA: Final = 0x1000
CHALLENGE: Final = tuple(i * 0x0101_0101_0101_0101 for i in range(1, 9))
CHALLENGE_BYTES: Final = b"".join(bytes([i]) * 8 for i in range(1, 9))
SIGN: Final = RmmdFid.EL3_TOKEN_SIGN
PUSH, PULL = (SIGN, TokenSignOp.PUSH_REQUEST), (SIGN, TokenSignOp.PULL_RESPONSE)
AGAIN: Final = RmmdError.AGAIN
MASK64: Final = (1 << 64) - 1
Claims = dict[int | str | bytes, Value]


class Guest:
    """A realm with a page of RAM and two RECs, on an EL3 that signs."""

    def __init__(
        self,
        make_el3: Callable[[FakeMachine], FakeEl3] = SigningEl3,
        generation: Generation = Generation.G1,
    ) -> None:
        self.world = World(make_el3, generation)
        self.rd = self.world.realm(rpv=b"p" * 64)
        self.world.do(RmiFid.RMI_RTT_INIT_RIPAS, self.rd, PAGE_IPA, PAGE_IPA + 0x1000)
        self.page = self.world.delegated()
        self.world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, self.rd, self.page, PAGE_IPA)
        self.recs = [self.world.rec(self.rd, mpidr=index) for index in range(2)]
        self.world.do(RmiFid.RMI_REALM_ACTIVATE, self.rd)
        if isinstance(self.world.el3, SigningEl3):
            self.el3 = self.world.el3
            self.el3.lock = self.world.rmm.lock

    def context(self, rec: int = 0) -> FakeContext:
        """Return a REC's registers."""
        return self.world.context(self.recs[rec])

    def call(self, *args: int, rec: int = 0) -> list[int]:
        """Make an RSI call that the RMM answers; returns x0..x3."""
        leave = self.world.enter(self.recs[rec], smc(*args))
        assert leave.exit_reason == RecExitReason.IRQ
        return self.context(rec).x[:4]

    def read_on(self, size: int = 4096, rec: int = 0) -> tuple[int, bytes]:
        """Continue once; returns the status and the part."""
        status, count, *_ = self.call(CONTINUE, PAGE_IPA, 0, size, rec=rec)
        return status, self.world.realm_memory.read(self.page, count)

    def token(self) -> bytes:
        """Get a token, in pieces."""
        assert self.call(INIT, *CHALLENGE)[0] == SUCCESS
        token, status = b"", int(INCOMPLETE)
        while status == INCOMPLETE:
            status, part = self.read_on(700)
            assert part
            token += part
        assert status == SUCCESS
        return token


def parts_of(token: bytes) -> tuple[OuterTag, bytes, bytes]:
    """Split a token into its tag, the platform and the realm token."""
    outer = decode(token)
    assert isinstance(outer, Tag)
    parts: Claims = outer.value
    assert list(parts) == [PLATFORM_TOKEN, REALM_TOKEN]
    platform, realm = ((v[1] if isinstance(v, list) else v) for v in parts.values())
    assert isinstance(platform, bytes)
    assert isinstance(realm, bytes)
    return OuterTag(outer.tag), platform, realm


def claims_of(token: bytes) -> Claims:
    """Return the realm claims of a token that is signed with the RAK."""
    sign1 = Sign1.parse(parts_of(token)[2])
    assert sign1.algorithm() is Algorithm.ES384
    assert is_signature(RAK_PUBLIC, Algorithm.ES384, sign1.to_be_signed, sign1.signature)
    claims = decode(sign1.payload)
    assert isinstance(claims, dict)
    return claims


@pytest.mark.parametrize("generation", Generation)
def test_token_describes_the_realm(generation: Generation) -> None:
    """In each generation's form, with the platform token that binds the key."""
    guest = Guest(generation=generation)
    guest.call(RsiFid.RSI_MEASUREMENT_EXTEND, 2, 8, 5)
    token = guest.token()
    tag, platform, realm = parts_of(token)
    assert tag is FORMS[generation].outer_tag
    assert platform == guest.el3.platform_token
    assert len(realm) <= 1024
    claims = claims_of(token)
    rim, *rems = guest.world.rmm.realms[guest.rd].measurements.values
    assert (claims[10], claims[44235], claims[44236]) == (CHALLENGE_BYTES, b"p" * 64, "sha-256")
    assert (claims[44238], claims[44239]) == (rim, rems)
    assert rems[1] != bytes(32)
    assert claims.get(265, "") == FORMS[generation].realm
    rak = claims[44237]
    assert isinstance(rak, bytes)
    assert guest.el3.challenges == [binding_of(rak)]


def test_instance_id_is_the_realms_own() -> None:
    """It differs from realm to realm, and is the same in all tokens of one."""
    guest, other = Guest(generation=Generation.G2), Guest(generation=Generation.G2)
    first, again = claims_of(guest.token())[256], claims_of(guest.token())[256]
    assert first == again != claims_of(other.token())[256]


def test_promised_size_is_enough() -> None:
    """Whatever the platform token's size."""
    for size in (0, 1, 1000, 4096):

        def make_el3(machine: FakeMachine, size: int = size) -> SigningEl3:
            el3 = SigningEl3(machine)
            el3.platform_token = bytes(size)
            return el3

        guest = Guest(make_el3, Generation.G2B)
        assert guest.call(INIT, *CHALLENGE)[1] >= len(guest.token()) > size


def test_key_exported_by_el3() -> None:
    """The RMM signs with it, and leaves no trace of the key in the shared page."""

    def make_el3(machine: FakeMachine) -> SigningEl3:
        el3 = SigningEl3(machine)
        el3.features = 0
        el3.platform_token = b"token"
        return el3

    guest = Guest(make_el3)
    guest.el3.errors[PUSH] = [RmmdError.UNK]
    assert claims_of(guest.token())[10] == CHALLENGE_BYTES
    private = RAK.private_numbers().private_value.to_bytes(48)
    assert private[-16:] not in guest.world.realm_memory.read(SHARED_PA, 4096)


# --- without attestation ----------------------------------------------------------------------


def no_token(guest: Guest) -> None:
    """Check that there is no token, not even a fake one."""
    assert guest.call(CONTINUE, PAGE_IPA, 0, 8)[0] == ERROR_STATE
    assert guest.call(INIT)[0] == SUCCESS
    assert guest.call(CONTINUE, PAGE_IPA, 0, 8) == [ERROR_UNKNOWN, 0, 0, 0]
    assert guest.call(CONTINUE, PAGE_IPA, 0, 8)[0] == ERROR_STATE


def test_el3_without_attestation() -> None:
    """ERROR_UNKNOWN, and the request has ended; the realm works otherwise."""
    guest = Guest(FakeEl3)
    no_token(guest)
    assert guest.call(RsiFid.RSI_VERSION, 0x1_0000)[0] == SUCCESS


@pytest.mark.parametrize("error", [RmmdError.UNK, RmmdError.AGAIN, RmmdError.FAULT])
@pytest.mark.parametrize(
    "call", [(SIGN, TokenSignOp.GET_RAK_PUBLIC), (RmmdFid.ATTEST_GET_PLAT_TOKEN, 0)]
)
def test_el3_that_fails_at_boot(call: tuple[int, int], error: RmmdError) -> None:
    """Attestation is not available in this power cycle."""

    def make_el3(machine: FakeMachine) -> SigningEl3:
        el3 = SigningEl3(machine)
        el3.errors[call] = [error]
        return el3

    no_token(Guest(make_el3))


@pytest.mark.parametrize("size", [0, 96, 98, 4096])
def test_el3_with_another_key(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Only a point of P-384 is a realm attestation key."""
    monkeypatch.setattr("tests.rmm.signer.RAK_PUBLIC", b"\4" * size)
    no_token(Guest())


@pytest.mark.parametrize("size", [4097, 1 << 20])
def test_el3_with_a_huge_platform_token(size: int) -> None:
    """The interface has a limit, and the RMM enforces it."""

    def make_el3(machine: FakeMachine) -> SigningEl3:
        el3 = SigningEl3(machine)
        el3.platform_token = bytes(size)
        return el3

    no_token(Guest(make_el3))


@pytest.mark.parametrize("call", [PUSH, PULL])
@pytest.mark.parametrize("error", [RmmdError.UNK, RmmdError.FAULT, RmmdError.INVAL])
def test_el3_that_fails_to_sign(call: tuple[int, int], error: RmmdError) -> None:
    """This attestation has ended; the next one may succeed."""
    guest = Guest()
    guest.el3.errors[call] = [error]
    no_token(guest)
    guest.el3.responses.clear()
    assert claims_of(guest.token())


@pytest.mark.parametrize("size", [0, 95, 97, 512, 0xFFFF])
def test_signature_of_another_size_is_rejected(size: int) -> None:
    """The attestation has failed."""
    guest = Guest()
    guest.call(INIT, *CHALLENGE)
    guest.el3.errors[PULL] = [AGAIN]
    assert guest.read_on() == (INCOMPLETE, b"")
    guest.el3.responses[0].sig_size = size
    assert guest.read_on() == (ERROR_UNKNOWN, b"")
    assert guest.read_on() == (ERROR_STATE, b"")


# --- in parts ---------------------------------------------------------------------------------


def test_busy_el3_does_not_block_the_realm() -> None:
    """Until there is a signature, each call returns nothing, and the REC may take IRQs."""
    guest = Guest()
    guest.el3.errors = {PUSH: [AGAIN] * 3, PULL: [AGAIN] * 7}
    guest.call(INIT, *CHALLENGE)
    for _ in range(7):
        assert guest.read_on() == (INCOMPLETE, b"")
    status, token = guest.read_on()
    assert status == SUCCESS
    assert claims_of(token)[10] == CHALLENGE_BYTES


def test_token_is_a_snapshot() -> None:
    """Extensions between the parts appear in the next token only."""
    guest = Guest()
    guest.call(INIT, *CHALLENGE)
    guest.el3.errors[PULL] = [AGAIN]
    assert guest.read_on() == (INCOMPLETE, b"")
    guest.call(RsiFid.RSI_MEASUREMENT_EXTEND, 1, 8, 5)
    _, token = guest.read_on()
    assert claims_of(token)[44239] == [bytes(32)] * 4
    assert claims_of(guest.token())[44239] != [bytes(32)] * 4


def test_size_zero_reads_nothing() -> None:
    """Even when all is ready."""
    guest = Guest()
    guest.call(INIT, *CHALLENGE)
    assert guest.read_on(0) == (INCOMPLETE, b"")
    status, token = guest.read_on()
    assert status == SUCCESS
    assert claims_of(token)


def test_part_goes_to_the_requested_place() -> None:
    """At the offset, and nowhere else."""
    guest = Guest()
    memory = guest.world.realm_memory
    memory.write(guest.page, b"\xee" * 4096)
    guest.call(INIT, *CHALLENGE)
    assert guest.call(CONTINUE, PAGE_IPA, 4000, 96)[:2] == [INCOMPLETE, 96]
    page = memory.read(guest.page, 4096)
    assert page[:4000] == b"\xee" * 4000
    assert page[4000:4002] == b"\xd9\x01"  # the tag


def test_init_ends_one_in_progress() -> None:
    """A new challenge starts again; the old signature is dropped."""
    guest = Guest()
    guest.el3.errors[PULL] = [AGAIN]
    guest.call(INIT)
    assert guest.read_on() == (INCOMPLETE, b"")
    guest.call(INIT, *CHALLENGE)
    assert guest.read_on() == (INCOMPLETE, b"")  # this pull brought the old signature
    status, token = guest.read_on()
    assert status == SUCCESS
    assert claims_of(token)[10] == CHALLENGE_BYTES
    guest.call(INIT)
    assert guest.read_on(100)[0] == INCOMPLETE
    assert claims_of(guest.token())[10] == CHALLENGE_BYTES


def test_recs_get_each_their_own() -> None:
    """A signature goes to the REC that requested it, whichever REC pulls it."""
    guest = Guest()
    guest.el3.errors[PULL] = [AGAIN, AGAIN]
    for rec in range(2):
        guest.call(INIT, rec + 1, rec=rec)
        assert guest.read_on(rec=rec) == (INCOMPLETE, b"")
    guest.el3.responses.reverse()
    assert guest.read_on(rec=0) == (INCOMPLETE, b"")  # it pulled that of REC 1
    for rec in (1, 0):
        status, token = guest.read_on(rec=rec)
        assert status == SUCCESS
        assert claims_of(token)[10] == bytes([rec + 1]).ljust(64, b"\0")
    assert not guest.el3.responses


def test_signature_for_nobody_is_dropped() -> None:
    """An unknown REC, an unknown ticket, and a duplicate response."""
    guest = Guest()
    guest.el3.errors[PULL] = [AGAIN]
    guest.call(INIT, *CHALLENGE)
    assert guest.read_on() == (INCOMPLETE, b"")
    (right,) = guest.el3.responses
    wrongs = [type(right)(right.data) for _ in range(2)]
    wrongs[0].rec = guest.rd
    wrongs[1].ticket += 1
    guest.el3.responses = [*wrongs, right, right]
    for _ in wrongs:
        assert guest.read_on() == (INCOMPLETE, b"")
    assert guest.read_on(10)[0] == INCOMPLETE
    guest.call(INIT, *CHALLENGE)
    assert guest.read_on() == (INCOMPLETE, b"")  # the second one
    assert claims_of(guest.read_on()[1])


def test_signature_of_a_destroyed_rec_is_dropped() -> None:
    """Its granule may belong to another REC by then, but the ticket differs."""
    guest = Guest()
    guest.el3.errors[PULL] = [AGAIN]
    guest.call(INIT, *CHALLENGE, rec=1)
    assert guest.read_on(rec=1) == (INCOMPLETE, b"")
    guest.world.do(RmiFid.RMI_REC_DESTROY, guest.recs[1])
    guest.call(INIT, *CHALLENGE)
    assert guest.read_on() == (INCOMPLETE, b"")
    assert claims_of(guest.read_on()[1])


def test_abandoned_requests_do_not_block_others() -> None:
    """EL3 is full of abandoned requests: the next caller clears them."""
    guest = Guest()
    max_requests = 3
    sign = guest.el3.smc

    def bounded(pe: int, args: tuple[int, ...]) -> tuple[int, ...]:
        if args[:2] == PUSH and len(guest.el3.responses) == max_requests:
            return (AGAIN & MASK64,)
        return sign(pe, args)

    guest.el3.smc = bounded  # type: ignore[assignment,method-assign]
    guest.el3.errors[PULL] = [AGAIN] * max_requests
    for _ in range(max_requests):
        guest.call(INIT)
        assert guest.read_on() == (INCOMPLETE, b"")
    guest.call(INIT, *CHALLENGE)
    for _ in range(max_requests):
        assert guest.read_on() == (INCOMPLETE, b"")  # and one of the old ones is gone
    assert claims_of(guest.read_on()[1])[10] == CHALLENGE_BYTES


def test_page_removed_meanwhile_is_requested_again() -> None:
    """The host took it while EL3 signed: a stage-2 fault; the token is not lost."""
    guest = Guest()
    world = guest.world
    guest.call(INIT, *CHALLENGE)
    sign = guest.el3.smc

    def take_page(pe: int, args: tuple[int, ...]) -> tuple[int, ...]:
        if args[:2] == PULL:
            table, index, _ = world.rmm.realms[guest.rd].rtt.walk(PAGE_IPA, 3)
            world.do(RmiFid.RMI_DATA_DESTROY, guest.rd, PAGE_IPA)
            table.entries[index] = 0x20  # RAM again
        return sign(pe, args)

    guest.el3.smc = take_page  # type: ignore[assignment,method-assign]
    leave = world.enter(guest.recs[0], smc(CONTINUE, PAGE_IPA, 0, 4096))
    assert (leave.exit_reason, leave.hpfar) == (RecExitReason.SYNC, hpfar_of(PAGE_IPA))
    guest.el3.smc = sign  # type: ignore[method-assign]
    guest.page = world.delegated()
    world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, guest.rd, guest.page, PAGE_IPA)
    assert claims_of(guest.read_on()[1])[10] == CHALLENGE_BYTES


def test_no_order_of_calls_breaks_it(seed: int) -> None:
    """Two RECs, any arguments, an EL3 that fails at random; finally there is a valid token."""
    rng, guest = random.Random(seed), Guest()
    for _ in range(1000):
        for call in (PUSH, PULL):
            guest.el3.errors[call] = rng.choices([AGAIN, RmmdError.FAULT], k=rng.randrange(3))
        rng.shuffle(guest.el3.responses)
        del guest.el3.responses[rng.randrange(4) :]
        rec = rng.randrange(2)
        if rng.random() < 0.3:
            assert guest.call(INIT, rng.getrandbits(64), rec=rec)[0] == SUCCESS
        ipa = rng.choice([PAGE_IPA] * 5 + [0, PAGE_IPA + 8, 0x5000, 1 << 32, MASK64 & -0x1000])
        offset, size = (rng.choice([0, 1, 700, 4095, 4096, MASK64]) for _ in range(2))
        status, count, *rest = guest.call(CONTINUE, ipa, offset, size, rec=rec)
        assert status in (*RsiStatus,)
        assert rest == [0, 0]
        assert count <= size if status in (SUCCESS, INCOMPLETE) else count == 0
    guest.el3.errors.clear()
    guest.el3.responses.clear()
    assert claims_of(guest.token())[10] == CHALLENGE_BYTES


def test_recs_on_two_pes_at_once() -> None:
    """Each gets its own token every time, though they share EL3's page."""
    guest = Guest()
    guest.el3.lock = None  # the other thread may hold it
    second = guest.world.delegated()
    run = [guest.world.ns_granule() for _ in range(2)]
    table, index, _ = guest.world.rmm.realms[guest.rd].rtt.walk(PAGE_IPA + 0x1000, 3)
    table.entries[index] = 0x20  # RAM
    guest.world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, guest.rd, second, PAGE_IPA + 0x1000)
    pages = (guest.page, second)

    def enter(rec: int, *args: int) -> tuple[int, ...]:
        guest.world.machine.pe(rec).steps.append(smc(*args))
        guest.world.do(RmiFid.RMI_REC_ENTER, guest.recs[rec], run[rec], pe=rec)
        return tuple(guest.context(rec).x[:2])

    def attest(rec: int) -> set[bytes]:
        tokens = set()
        for number in range(20):
            assert enter(rec, INIT, rec, number)[0] == SUCCESS
            result: tuple[int, ...] = (INCOMPLETE, 0)
            while result == (INCOMPLETE, 0):
                result = enter(rec, CONTINUE, PAGE_IPA + rec * 0x1000, 0, 4096)
            assert result[0] == SUCCESS
            tokens.add(guest.world.realm_memory.read(pages[rec], result[1]))
        return tokens

    with ThreadPoolExecutor(2) as pool:
        for rec, tokens in enumerate(pool.map(attest, range(2))):
            challenges = {claims_of(token)[10] for token in tokens}
            assert challenges == {bytes((rec, *bytes(7), n)).ljust(64, b"\0") for n in range(20)}
