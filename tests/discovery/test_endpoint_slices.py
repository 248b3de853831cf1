"""endpoint_slices.py: what one EndpointSlice says, and what several say together."""

import itertools
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.snapshot import Endpoint, Health, Snapshot
from discovery.sources.kubernetes.endpoint_slices import Slice, event, merge, read

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "300"))

GRPC = {"name": "grpc", "port": 50051, "protocol": "TCP"}
METRICS = {"name": "metrics", "port": 9090, "protocol": "TCP"}
UDP = {"name": "grpc", "port": 53, "protocol": "UDP"}
READY = {"ready": True, "serving": True, "terminating": False}
STARTING = {"ready": False, "serving": False, "terminating": False}
LEAVING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}

_names = itertools.count()


def endpoint(address: str, conditions: Any = READY, pod: str = "", **others: Any) -> dict[str, Any]:
    """An endpoint in the API's form."""
    reference = {"targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-of-{pod}"}} if pod else {}
    return {"addresses": [address], "conditions": conditions, **reference, **others}


def content(*endpoints: Any, ports: Any = (GRPC,), address_type: Any = "IPv4") -> dict[str, Any]:
    """An EndpointSlice in the API's form."""
    name = f"greeter-{next(_names)}"
    return {"metadata": {"name": name}, "addressType": address_type, "endpoints": list(endpoints), "ports": ports}


def sent(content: Any) -> Any:
    """A slice as it is known from an event of a watch, written as the API server writes it: the fields in this order, no spaces."""
    kind, known = event(json.dumps({"type": "MODIFIED", "object": content}, separators=(",", ":")).encode())
    assert kind == "MODIFIED"
    return known


def merged(*contents: Any, wanted: str = "") -> list[Endpoint]:
    """The endpoints of several slices, of which none has a problem."""
    endpoints, problems = merge(read(item, wanted) for item in contents)
    assert problems == []
    return endpoints


def found(*contents: Any, wanted: str = "") -> set[tuple[str, int]]:
    return {item[:2] for item in merged(*contents, wanted=wanted)}


@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        (READY, Health.HEALTHY),
        ({}, Health.HEALTHY),
        (None, Health.HEALTHY),
        ({"ready": None}, Health.HEALTHY),
        ({"ready": None, "serving": None, "terminating": None}, Health.HEALTHY),
        ({"ready": True}, Health.HEALTHY),
        ({"serving": True}, Health.HEALTHY),
        (LEAVING, Health.DRAINING),
        (STARTING, Health.UNHEALTHY),
        (GONE, Health.UNHEALTHY),
        ({"ready": False}, Health.UNHEALTHY),
        ({"ready": False, "serving": True}, Health.UNHEALTHY),
        ({"ready": False, "terminating": True}, Health.UNHEALTHY),
    ],
)
def test_conditions_say_who_gets_requests_and_one_that_is_not_set_counts_as_ready(conditions: Any, health: Health) -> None:
    """Nil ready is ready; serving and terminating is DRAINING; not ready is UNHEALTHY otherwise."""
    (only,) = merged(content(endpoint("10.0.0.1", conditions)))
    assert only.health is health


def test_an_endpoint_without_the_field_conditions_is_ready() -> None:
    """The whole object may be missing."""
    (only,) = merged(content({"addresses": ["10.0.0.1"]}))
    assert only.health is Health.HEALTHY


@pytest.mark.parametrize(
    ("wanted", "ports", "expected"),
    [
        ("grpc", [METRICS, GRPC], 50051),
        ("metrics", [METRICS, GRPC], 9090),
        ("", [METRICS, GRPC], 50051),
        ("", [METRICS], 9090),
        ("", [{"port": 80}], 80),
        ("", [{"name": None, "port": 80, "protocol": "TCP"}], 80),
        ("", [UDP, METRICS], 9090),
        ("grpc", [UDP, GRPC], 50051),
        ("50051", [METRICS, GRPC], 50051),
        ("50051", [{"name": "any", "port": None}], 50051),
        ("50051", None, 50051),
        ("50051", [], 50051),
    ],
)
def test_the_port_is_the_named_one_the_number_the_only_one_or_grpc(wanted: str, ports: Any, expected: int) -> None:
    """In this order; UDP never counts, and a slice that does not restrict its ports has every number."""
    assert found(content(endpoint("10.0.0.1"), ports=ports), wanted=wanted) == {("10.0.0.1", expected)}


@pytest.mark.parametrize(
    ("wanted", "ports", "others"),
    [
        ("https", [METRICS, GRPC], ("grpc (50051)", "metrics (9090)")),
        ("", [METRICS, {"name": "debug", "port": 6060}], ("debug (6060)", "metrics (9090)")),
        ("443", [METRICS, GRPC], ("grpc (50051)", "metrics (9090)")),
        ("grpc", [UDP], ("none",)),
        ("53", [UDP, METRICS], ("metrics (9090)",)),
        ("grpc", [], ("none",)),
        ("grpc", None, ("none",)),
        ("", None, ("none",)),
        ("grpc", [{"name": "grpc"}], ("grpc (None)",)),
        ("", [{"name": "grpc", "port": None}], ("grpc (None)",)),
        ("https", [{"port": 80}], ("without a name (80)",)),
    ],
)
def test_where_the_port_is_not_among_them_the_slice_tells_which_there_are(
    wanted: str, ports: Any, others: tuple[str, ...]
) -> None:
    """No port is guessed, and the sentence that a person reads can name the choice."""
    assert read(content(endpoint("10.0.0.1"), ports=ports), wanted) == Slice(other_ports=others)


def test_a_slice_without_the_port_costs_the_others_nothing() -> None:
    """Each slice has its own ports: during a roll-out that adds a port the old pods' slice lacks it."""
    parts = [read(content(endpoint(f"10.0.0.{n}"), ports=[port]), "grpc") for n, port in enumerate((GRPC, METRICS), 1)]
    endpoints, _ = merge(parts)
    assert [item[:2] for item in endpoints] == [("10.0.0.1", 50051)]
    assert [part.other_ports for part in parts] == [(), ("metrics (9090)",)]


def test_a_named_port_may_have_another_number_in_each_slice() -> None:
    """A Service's targetPort may be a name, which pods of two versions resolve differently."""
    second = content(endpoint("10.0.0.2"), ports=[{**GRPC, "port": 50052}])
    assert found(content(endpoint("10.0.0.1")), second, wanted="grpc") == {("10.0.0.1", 50051), ("10.0.0.2", 50052)}


@pytest.mark.parametrize("ports", [(GRPC,), (METRICS,), None])
def test_an_empty_slice_lacks_no_port(ports: Any) -> None:
    """A controller leaves empty slices behind, often without ports."""
    assert read(content(ports=ports), "grpc") == Slice()
    assert read({**content(ports=ports), "endpoints": None}, "grpc") == Slice()


def test_slices_add_up() -> None:
    """A Service's endpoints are spread over as many slices as the controller likes."""
    first, second = content(endpoint("10.0.0.1"), endpoint("10.0.0.2")), content(endpoint("10.0.0.3"))
    assert found(first, second) == {("10.0.0.1", 50051), ("10.0.0.2", 50051), ("10.0.0.3", 50051)}
    assert merged() == []


@pytest.mark.parametrize("worse", [LEAVING, STARTING, GONE])
def test_an_address_in_two_slices_counts_once_and_the_ready_one_wins(worse: dict[str, bool]) -> None:
    """While an endpoint is moved from one slice to another it stands in both, and one of them is older."""
    both = [content(endpoint("10.0.0.1", worse, "a")), content(endpoint("10.0.0.1", READY, "a"))]
    for contents in (both, both[::-1]):
        (only,) = merged(*contents)
        assert only.health is Health.HEALTHY


def test_of_two_slices_that_are_not_ready_the_one_that_still_serves_wins() -> None:
    """So that the last resort is not lost."""
    both = [content(endpoint("10.0.0.1", STARTING)), content(endpoint("10.0.0.1", LEAVING))]
    for contents in (both, both[::-1]):
        (only,) = merged(*contents)
        assert only.health is Health.DRAINING


def test_ipv6_addresses_are_endpoints() -> None:
    """As they are written in URIs."""
    (only,) = merged(content(endpoint("fd00::1"), address_type="IPv6"))
    assert only.authority == "[fd00::1]:50051"


def test_a_pod_with_both_families_counts_once() -> None:
    """Two addresses would double its share; a pod that has no IPv4 address is kept by its IPv6 one."""
    four = content(endpoint("10.0.0.1", pod="a"), endpoint("10.0.0.2", pod="b"))
    six = content(endpoint("fd00::1", pod="a"), endpoint("fd00::3", pod="c"), address_type="IPv6")
    for contents in ((four, six), (six, four)):
        assert {item.address for item in merged(*contents)} == {"10.0.0.1", "10.0.0.2", "fd00::3"}
    assert {item.address for item in merged(six)} == {"fd00::1", "fd00::3"}


def test_endpoints_that_do_not_say_what_they_stand_for_are_all_kept() -> None:
    """Nothing tells whether they are the same."""
    six = content(endpoint("fd00::1"), endpoint("fd00::2"), address_type="IPv6")
    four = content(endpoint("10.0.0.1"), endpoint("10.0.0.2"))
    assert {item.address for item in merged(four, six)} == {"10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"}


def test_two_containers_of_one_pod_in_slices_of_one_family_are_both_kept() -> None:
    """Only another family is a reason to leave one out: one pod may listen on two ports."""
    second = content(endpoint("10.0.0.1", pod="a"), ports=[{**GRPC, "port": 50052}])
    assert found(content(endpoint("10.0.0.1", pod="a")), second) == {("10.0.0.1", 50051), ("10.0.0.1", 50052)}


@pytest.mark.parametrize("kind", ["FQDN", "", None, "ipv4", 4, ["IPv4"]])
def test_addresses_that_are_no_ip_literals_are_a_problem_and_cost_the_others_nothing(kind: Any) -> None:
    """An FQDN slice cannot be sent over xDS; the sentence names the slice."""
    names = content(endpoint("greeter.example"), address_type=kind)
    endpoints, problems = merge(read(item, "") for item in (names, content(endpoint("10.0.0.1"))))
    assert [item.address for item in endpoints] == ["10.0.0.1"]
    assert len(problems) == 1
    assert f"EndpointSlice '{names['metadata']['name']}' is left out: addresses of type" in problems[0]


@pytest.mark.parametrize(
    "bad",
    [
        None, 5, "10.0.0.9", [], {}, {"addresses": None}, {"addresses": []}, {"addresses": [None]}, {"addresses": {}},
        endpoint("10.0.0.9", conditions=[1]), endpoint("10.0.0.9", zone=5), endpoint("10.0.0.9", nodeName=["a"]),
        endpoint("10.0.0.9", targetRef="a"), endpoint("10.0.0.9", hints="zone-a"), endpoint("10.0.0.9", hints={"forZones": [{}]}),
        endpoint("10.0.0.9", hints={"forNodes": "node-1"}), endpoint("10.0.0.9", hints={"forNodes": [{"name": 1}]}),
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_endpoint_is_a_problem_and_costs_the_good_ones_nothing(bad: Any) -> None:
    """The sentence names the slice."""
    part = read(content(endpoint("10.0.0.1"), bad, endpoint("10.0.0.2")), "grpc")
    assert [item.address for _, item in part.entries] == ["10.0.0.1", "10.0.0.2"]
    (problem,) = part.problems
    assert problem.startswith("EndpointSlice 'greeter-")
    assert "an endpoint is left out" in problem


@pytest.mark.parametrize("ports", [5, True, "grpc", {"name": "grpc"}, [None], [{"name": ["grpc"], "port": [1]}]], ids=repr)
def test_ports_that_are_none_cost_the_others_nothing(ports: Any) -> None:
    """A slice is left out alone."""
    endpoints, _ = merge(
        read(item, "grpc") for item in (content(endpoint("10.0.0.1"), ports=ports), content(endpoint("10.0.0.2")))
    )
    assert [item.address for item in endpoints] == ["10.0.0.2"]


@pytest.mark.parametrize("bad", [None, 5, "text", [], {}, {"metadata": None}, {"metadata": []}])
def test_what_is_no_slice_is_a_problem(bad: Any) -> None:
    """And nothing else."""
    part = read(bad, "grpc")
    assert part.entries == ()
    assert len(part.problems) == 1


def test_zone_hints_node_and_pod_are_kept() -> None:
    """Zones steer traffic; names are for the person who reads the table."""
    hints = {"forZones": [{"name": "z-b"}, {"name": "z-a"}], "forNodes": [{"name": "node-1"}]}
    full = endpoint("10.0.0.1", pod="greeter-x", zone="z-a", nodeName="node-1", hints=hints)
    assert merged(content(full)) == [
        Endpoint(
            "10.0.0.1", 50051, "z-a", health=Health.HEALTHY, name="greeter-x", node="node-1",
            hints=("z-a", "z-b"), node_hints=("node-1",),
        )
    ]  # fmt: skip


def test_of_a_slice_that_changes_only_what_is_different_is_parsed_again() -> None:
    """A change of one in a thousand costs one; another port concerns all."""
    first = content(*(endpoint(f"10.0.0.{number}", pod=f"pod-{number}") for number in range(1, 4)))
    before = read(sent(first), "grpc")
    second = json.loads(json.dumps(first))
    second["endpoints"][1]["conditions"]["ready"] = False
    after = read(sent(second), "grpc", before)
    assert [new is old for new, old in zip(after.entries, before.entries, strict=True)] == [True, False, True]
    assert after.entries[1][1].health is Health.UNHEALTHY
    second["ports"] = [{**GRPC, "port": 50052}]
    assert {item.port for _, item in read(sent(second), "grpc", after).entries} == {50052}


def test_a_pod_without_reference_is_called_by_its_host_name() -> None:
    """A headless Service's hand-written endpoints have one."""
    (only,) = merged(content(endpoint("10.0.0.1", hostname="greeter-0")))
    assert only.name == "greeter-0"


# ---- for every input ----

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
flat = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=4), scalars, max_size=3)
# Not st.recursive, which takes four times as long: the fuzzer wants many, and nobody reads deeper.
anything = flat | st.lists(flat, max_size=2) | st.dictionaries(st.text(max_size=4), flat, max_size=2)
wanted_ports = st.sampled_from(["", "grpc", "metrics", "50051"])


def like(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object of these keys, any of which may be missing or be anything; rarely no object at all."""
    return st.fixed_dictionaries({}, optional={key: inner | anything for key, inner in keys.items()}) | anything


addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"])
nearly_ports = st.lists(like(name=st.just("grpc"), port=st.just(50051), protocol=st.sampled_from(["TCP", "UDP"])), max_size=3)
nearly_endpoint = like(
    addresses=st.lists(addresses, max_size=2),
    conditions=like(ready=st.booleans(), serving=st.booleans(), terminating=st.booleans()),
    targetRef=like(name=st.text(max_size=2), uid=st.text(max_size=2)),
    hints=like(forZones=st.lists(like(name=st.text(max_size=2)), max_size=2)),
    zone=st.text(max_size=2),
    nodeName=st.text(max_size=2),
)
nearly_slice = like(
    metadata=like(name=st.text(max_size=2)),
    addressType=st.sampled_from(["IPv4", "IPv6"]),
    endpoints=st.lists(nearly_endpoint, max_size=3),
    ports=nearly_ports,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(nearly_slice, max_size=4), wanted_ports)
def test_no_json_whatever_makes_it_raise(contents: list[Any], wanted: str) -> None:
    """One malformed object in a registry must not cost a client all others."""
    endpoints, problems = merge([read(item, wanted) for item in contents])
    Snapshot.of(endpoints, problems)


@settings(max_examples=EXAMPLES, deadline=None)
@given(nearly_slice, nearly_slice, wanted_ports)
def test_neither_how_a_slice_is_written_nor_what_it_was_before_has_an_effect(before: Any, after: Any, wanted: str) -> None:
    """That endpoints are cut out of the JSON, and that those which are the same are reused, cannot be seen."""
    assert _facts(read(sent(after), wanted, read(sent(before), wanted))) == _facts(read(after, wanted))


def _facts(part: Slice) -> Any:
    """A slice without the reasons for which endpoints were left out."""
    return part.entries, part.ipv6, part.other_ports, len(part.problems)


@pytest.mark.parametrize("text", ['"endpoints":[{"addresses":', '},{"addresses":', '}],"ports":', '\\"},{"addresses":["'])
def test_text_that_looks_like_the_border_of_an_endpoint_is_none(text: str) -> None:
    """In a name or an annotation, where quotes are escaped."""
    plain = content(endpoint("10.0.0.1", zone=text, pod=text), endpoint("10.0.0.2", hostname=text))
    plain["metadata"]["annotations"] = {text: text}
    assert read(sent(plain), "grpc") == read(plain, "grpc")


good_endpoint = st.builds(
    endpoint,
    addresses,
    st.sampled_from([READY, STARTING, LEAVING, GONE, None]),
    st.sampled_from(["", "a", "b"]),
    zone=st.sampled_from(["", "z-a"]),
)
good_slice = st.builds(
    lambda endpoints, ports, kind: content(*endpoints, ports=ports, address_type=kind),
    st.lists(good_endpoint, max_size=4),
    st.sampled_from([[GRPC], [METRICS, GRPC], [{**GRPC, "port": 50052}], [METRICS, UDP], None]),
    st.sampled_from(["IPv4", "IPv6", "FQDN"]),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(good_slice, max_size=5).flatmap(lambda made: st.tuples(st.just(made), st.permutations(made))), wanted_ports)
def test_the_order_of_slices_does_not_matter(orders: tuple[list[Any], list[Any]], wanted: str) -> None:
    """A registry lists them in any order, and after a restart in another."""
    one, other = (set(merge(read(item, wanted) for item in order)[0]) for order in orders)
    assert one == other
