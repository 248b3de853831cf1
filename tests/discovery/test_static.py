"""sources/static.py: a list in the target."""

import re
import threading

import pytest

from discovery import Config, SourceError, insecure_channel
from discovery.sources.source import open_source
from discovery.target import parse

from .servers import DEADLINE, servers, share


def first(text: str) -> set[tuple[str, int]]:
    source = open_source(parse(text), Config())
    return {endpoint[:2] for endpoint in next(iter(source.watch())).endpoints}


def test_literals_stand_for_themselves_and_names_are_looked_up() -> None:
    """All addresses of a name count."""
    assert first("static:///127.0.0.1:80,[::1]:81") == {("127.0.0.1", 80), ("::1", 81)}
    assert ("127.0.0.1", 82) in first("static:///localhost:82")


@pytest.mark.parametrize("name", ["no.such.host.invalid", "a" * 70, "a..b"])
def test_a_name_that_cannot_be_looked_up_is_an_error_that_names_it(name: str) -> None:
    """The resolver tries again; a name that no look-up can mean is no defect of ours either."""
    with pytest.raises(SourceError, match=f"'{re.escape(name)}' cannot be looked up"):
        first(f"static:///{name}:80")


def test_it_never_changes_and_ends_when_closed() -> None:
    """One set, then nothing; after the close not even that."""
    source = open_source(parse("static:///127.0.0.1:80"), Config())
    watch = iter(source.watch())
    assert len(next(watch)) == 1
    rest: list[object] = []
    thread = threading.Thread(target=lambda: rest.extend(watch), daemon=True)
    thread.start()
    source.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert rest == list(source.watch()) == []


def test_an_endpoint_is_named_after_the_name_it_was_found_by() -> None:
    """A literal has no name of its own."""
    source = open_source(parse("static:///127.0.0.1:80,localhost:81"), Config())
    assert {endpoint.name for endpoint in next(iter(source.watch())).endpoints} == {"", "localhost:81"}


def test_calls_are_spread_over_the_list() -> None:
    """From the target alone to the call."""
    with servers("a", "b") as running, insecure_channel(f"static:///{running['a'].address},{running['b'].address}") as channel:
        assert set(share(channel, 40)) == {"a", "b"}
