"""What waits for the transfers of devices."""

from pyvmm.host.dma import Transfers


def test_without_transfers_nothing_waits() -> None:
    """The action is called at once."""
    called: list[str] = []
    Transfers().after(lambda: called.append("now"))
    assert called == ["now"]


def test_an_action_waits_for_the_transfers_before_it() -> None:
    """Not for those that begin later, and in the order of the actions."""
    transfers, called = Transfers(), list[str]()
    first, second = transfers.begin(), transfers.begin()
    transfers.after(lambda: called.append("a"))
    third = transfers.begin()
    transfers.after(lambda: called.append("b"))
    transfers.end(second)
    assert called == []
    transfers.end(first)
    assert called == ["a"]
    transfers.end(third)
    assert called == ["a", "b"]
