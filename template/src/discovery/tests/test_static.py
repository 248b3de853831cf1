"""sources/static.py: a list in the target."""

import threading

import pytest

from .. import Config, SourceError, insecure_channel
from ..source import open_source
from ..target import parse
from .servers import DEADLINE, servers, share


def first(text: str) -> set[tuple[str, int]]:
    source = open_source(parse(text), Config())
    return {endpoint[:2] for endpoint in next(iter(source.watch())).endpoints}


def test_literals_stand_for_themselves_and_names_are_looked_up() -> None:
    """All addresses of a name count."""
    assert first("static:///127.0.0.1:80,[::1]:81") == {("127.0.0.1", 80), ("::1", 81)}
    assert ("127.0.0.1", 82) in first("static:///localhost:82")


def test_a_name_that_cannot_be_looked_up_is_an_error_that_names_it() -> None:
    """The resolver tries again."""
    with pytest.raises(SourceError, match=r"'no\.such\.host\.invalid' cannot be looked up"):
        first("static:///no.such.host.invalid:80")


def test_it_never_changes_and_ends_when_closed() -> None:
    """One set, then nothing."""
    source = open_source(parse("static:///127.0.0.1:80"), Config())
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.extend(source.watch()), daemon=True)
    thread.start()
    source.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert len(seen) == 1


def test_calls_are_spread_over_the_list() -> None:
    """From the target alone to the call."""
    with servers("a", "b") as running, insecure_channel(f"static:///{running['a'].address},{running['b'].address}") as channel:
        assert set(share(channel, 40)) == {"a", "b"}
