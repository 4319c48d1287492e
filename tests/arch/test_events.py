"""The event stream: any number of listeners, and none costs nothing."""

from functools import partial

from pyvmm.arch.events import Event, EventStream, HesCall

EVENT = HesCall("service", "OK")


def emit(stream: EventStream) -> None:
    """Emit as every emitter does."""
    if stream.listener is not None:
        stream.listener(EVENT)


def test_each_listener_gets_each_event_until_it_leaves() -> None:
    """In the order in which they came; emitters see no listener when all have left."""
    stream, seen = EventStream(), list[tuple[int, Event]]()
    emit(stream)

    def note(number: int, event: Event) -> None:
        seen.append((number, event))

    leave = [stream.subscribe(partial(note, number)) for number in range(3)]
    emit(stream)
    assert seen == [(0, EVENT), (1, EVENT), (2, EVENT)]
    leave[1]()
    leave[1]()  # does no harm
    emit(stream)
    assert seen[3:] == [(0, EVENT), (2, EVENT)]
    leave[0]()
    leave[2]()
    assert stream.listener is None


def test_a_single_listener_is_called_directly() -> None:
    """No function is between it and the emitter."""
    seen = list[Event]()
    listener = seen.append
    stream = EventStream(listener)
    assert stream.listener is listener
    stream.subscribe(lambda _: None)()
    assert stream.listener is listener
