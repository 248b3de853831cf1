"""snapshot.py: what a valid set is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.snapshot import Endpoint, Health, Snapshot, parse_authority
from discovery.status import Status
from discovery.terminal import changes, summary, table


def test_equal_content_is_equal_whatever_the_order_or_the_problems() -> None:
    """What counts is who serves."""
    a, b = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)
    assert Snapshot.of([a, b]) == Snapshot.of([b, a, a], ["something"])
    assert Snapshot.of([a]) != Snapshot.of([a._replace(zone="z")])


def test_addresses_come_out_in_canonical_form() -> None:
    """So that two spellings of one address are one endpoint."""
    snapshot = Snapshot.of([Endpoint("::0001", 80), Endpoint("0:0::1", 80)])
    assert [endpoint.address for endpoint in snapshot.endpoints] == ["::1"]
    assert snapshot.problems == ()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Endpoint("localhost", 80), "the address is no IP literal"),
        (Endpoint("", 80), "the address is no IP literal"),
        (Endpoint("fe80::1%eth0", 80), "zone index"),
        (Endpoint("10.0.0.9", 0), "the port must be 1 to 65535"),
        (Endpoint("10.0.0.9", 65536), "the port must be 1 to 65535"),
        (Endpoint("10.0.0.9", 80, weight=0), "weight 0 must be"),
    ],
)
def test_a_bad_entry_costs_only_itself(bad: Endpoint, reason: str) -> None:
    """gRPC refuses a whole set for one of these."""
    good = Endpoint("10.0.0.1", 80)
    snapshot = Snapshot.of([bad, good])
    assert snapshot.endpoints == {good}
    assert reason in snapshot.problems[0]


def test_of_two_entries_for_one_address_one_counts() -> None:
    """gRPC refuses a set with a duplicate address. The better health counts, as long as a registry says both."""
    bad = Endpoint("10.0.0.1", 80, zone="a", health=Health.UNHEALTHY)
    leaving, good = (bad._replace(health=health, zone="z") for health in (Health.DRAINING, Health.HEALTHY))
    other = Endpoint("10.0.0.2", 80)
    assert Snapshot.of([bad, leaving, good, other]).endpoints == {good, other}
    assert Snapshot.of([bad, leaving]).endpoints == {leaving}
    assert "listed twice" in Snapshot.of([bad, good]).problems[0]


ENTRIES = st.builds(
    Endpoint,
    st.sampled_from(["10.0.0.1", "::1", "0::1", "x"]),
    st.integers(0, 2),
    st.sampled_from("ab"),
    st.integers(0, 2),
    st.sampled_from(Health),
    st.sampled_from(["", "pod"]),
)


@given(st.lists(ENTRIES, max_size=12).flatmap(lambda listed: st.tuples(st.just(listed), st.permutations(listed))))
def test_the_order_of_the_entries_changes_nothing(both: tuple[list[Endpoint], list[Endpoint]]) -> None:
    """DNS and etcd rotate their answers; an equal set must not become an update, nor a problem a new one."""
    first, second = Snapshot.of(both[0], ["b", "a"]), Snapshot.of(both[1] + both[1], ["a", "b", "a"])
    assert (first, first.problems) == (second, second.problems)
    again = Snapshot.of(both[1], ["b", "a"], last=first)
    assert (again, again.problems) == (first, first.problems)


@given(
    st.lists(
        st.builds(
            Endpoint, st.sampled_from(["10.0.0.1", "10.0.0.2", "::1", "0::1", "x"]), st.integers(0, 3), st.sampled_from("ab")
        )
    )
)
def test_knowing_the_last_set_changes_nothing_but_the_price(endpoints: list[Endpoint]) -> None:
    """The short cut for what is known already."""
    plain = Snapshot.of(endpoints)
    assert Snapshot.of(endpoints, last=plain) == plain
    keys = [endpoint[:2] for endpoint in plain.endpoints]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("text", "expected"), [("a:1", ("a", 1)), ("[::1]:2", ("::1", 2)), ("10.0.0.1:65535", ("10.0.0.1", 65535))]
)
def test_host_and_port_are_split(text: str, expected: tuple[str, int]) -> None:
    """As RFC 3986 writes them."""
    assert parse_authority(text) == expected


@given(st.text() | st.text(st.sampled_from(":[]%.-+_ \n019a\u0661\ud800")))
def test_any_text_is_host_and_port_or_a_value_error(text: str) -> None:
    """No other exception."""
    try:
        host, port = parse_authority(text)
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65535


def test_what_a_registry_holds_cannot_command_a_terminal() -> None:
    """Not from a problem, a name or a zone: escape sequences are shown, not sent."""
    hostile = "\x1b[2J\n\u202e\x9b\ud800\u2028"
    shown = Snapshot.of([Endpoint("10.0.0.1", 80, zone=hostile, name=hostile, node=hostile)], [f"key '{hostile}' is left out"])
    status = Status("etcd:///x", state="synced", snapshot=shown, problems=shown.problems, last_error=hostile)
    for text in (*table(status).splitlines(), *changes(None, shown), summary(status), *shown.problems):
        assert text.isprintable()
        assert "[2J" in text or "ADDRESS" in text
