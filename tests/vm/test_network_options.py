"""The network cards that a user asks for."""

from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.network_options import (
    Mode,
    NetworkOptions,
    is_forward,
    parse_forwards,
    parse_networks,
    with_forwards,
)

MAC = "02:00:00:00:00:01"


def test_cards_of_each_mode_are_read() -> None:
    """A card has its keys, and an address of its own."""
    user, tap, first, second = parse_networks(
        [
            f"mode=user,guest_mac={MAC},hostfwd=tcp:8080-:80,hostfwd=udp:[::1]:53-:53",
            "mode=tap,tapif=tap0,mq=4,mtu=9000",
            "mode=socket,listen=/run/lan,pcap=/run/file",
            "mode=socket,connect=/run/lan",
        ]
    )
    assert (user.mode, user.mac) == (Mode.USER, bytes.fromhex("020000000001"))
    assert list(map(str, user.forwards)) == ["tcp:127.0.0.1:8080-:80", "udp:[::1]:53-:53"]
    assert (tap.tap, tap.num_queues, tap.mtu) == ("tap0", 4, 9000)
    assert (first.listen, first.capture) == (Path("/run/lan"), Path("/run/file"))
    assert second.connect == Path("/run/lan")
    assert [card.mac[-1] for card in (tap, first, second)] == [0x16, 0x17, 0x18]


def test_one_card_has_the_default_address() -> None:
    """The mode is user by default; the program is what is installed."""
    assert parse_networks([""]) == (NetworkOptions(),)
    assert parse_networks(["backend=slirp"]) == (NetworkOptions(backend="slirp"),)
    assert parse_networks([f"mac={MAC}"])[0].mac == bytes.fromhex("020000000001")


def test_no_card_is_an_answer() -> None:
    """mode=none removes the card."""
    assert parse_networks(["mode=none"]) == ()
    assert len(parse_networks(["mode=none", "mode=user"])) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mode=vhost", "give mode=none|user|tap|socket"),
        ("mode=tap", "add tapif=NAME"),
        ("tapif=tap0", "tapif requires mode=tap"),
        ("guest_mac=1", "give a unicast address"),
        ("mac=01:00:00:00:00:00", "give a unicast address"),
        ("mac=00:00:00:00:00:00", "give a unicast address"),
        (f"mac={MAC},guest_mac={MAC}", "give one"),
        ("hostfwd=80", "give a forward"),
        ("colour=red", "unknown key"),
        ("mac", "has no value"),
        ("mode=tap,tapif=t,hostfwd=tcp:1-:2", "hostfwd requires mode=user"),
        ("mode=tap,tapif=t,backend=passt", "backend requires mode=user"),
        ("backend=qemu", "give backend=passt|slirp"),
        ("mode=none,hostfwd=tcp:1-:2", "mode=none excludes"),
        ("mode=user,mode=tap", "mode occurs 2 times"),
        ("mtu=67", "give 68 to 65535"),
        ("mtu=99999999999999", "give 68 to 65535"),
        ("mtu=²", "give 68 to 65535"),
        ("mode=tap,tapif=t,mq=0", "give 1 to 16"),
        ("mode=user,mq=2", "mq requires mode=tap"),
        ("mode=socket", "requires either listen=PATH or connect=PATH"),
        ("mode=socket,listen=a,connect=b", "requires either"),
    ],
)
def test_impossible_card_is_refused(text: str, words: str) -> None:
    """An unknown key, a value it cannot have, or keys that do not go together."""
    with pytest.raises(UserError) as refusal:
        parse_networks([text])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_cards_that_are_alike_are_refused() -> None:
    """Two cards with one address confuse a guest; a machine has room for some cards only."""
    with pytest.raises(UserError, match=f"2 network cards have mac={MAC}"):
        parse_networks([f"mac={MAC}", f"mac={MAC}"])
    with pytest.raises(UserError, match="17 network cards: give at most 16"):
        parse_networks(["mode=user"] * 17)


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("8080:80", "tcp:127.0.0.1:8080-:80"),
        ("0.0.0.0:8080:80/tcp", "tcp:0.0.0.0:8080-:80"),
        ("5353:53/udp", "udp:127.0.0.1:5353-:53"),
        ("[::1]:8080:80", "tcp:[::1]:8080-:80"),
    ],
)
def test_published_port_is_a_forward(text: str, forward: str) -> None:
    """As docker takes it, but on the loopback interface unless an address is given."""
    assert is_forward(text)
    assert [*map(str, parse_forwards([text]))] == [forward]


@pytest.mark.parametrize("text", ["80", "a:80", "80:", "1.2.3:80:80", "80:80/sctp", "80:80 quiet"])
def test_other_texts_are_no_published_ports(text: str) -> None:
    """They may be kernel parameters."""
    assert not is_forward(text)
    with pytest.raises(UserError, match="give HOST_PORT:GUEST_PORT"):
        parse_forwards([text])


def test_forwards_belong_to_the_first_card_in_user_mode() -> None:
    """Without a card, there is a new one; it needs what an optional card does without."""
    forwards = parse_forwards(["1:2"])
    (card,) = with_forwards((), forwards)
    assert (card.mode, card.forwards) == (Mode.USER, forwards)
    cards = (
        *parse_networks(["mode=tap,tapif=t"]),
        NetworkOptions(mac=b"\2abcde", is_optional=True),
    )
    changed = with_forwards(cards, forwards)
    assert changed[0] == cards[0]
    assert changed[1] == replace(cards[1], forwards=forwards, is_optional=False)
    assert with_forwards(cards, ()) == cards
    with pytest.raises(UserError, match="--publish requires a card in user mode"):
        with_forwards(cards[:1], forwards)
