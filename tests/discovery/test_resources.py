"""resources.py, sharding.py and zones.py: what gRPC is told of a set, and how little of it changes."""

from collections import Counter

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery import Config, Manual, insecure_channel, testing
from discovery.balancing.sharding import SMALLEST_PART, WHOLE, Parts, part_count
from discovery.balancing.zones import Preference, preference, usable
from discovery.config import Outliers
from discovery.errors import TargetError
from discovery.snapshot import Endpoint, Health, Snapshot
from discovery.wire import messages_pb2 as xds
from discovery.xds.resources import ASSIGNMENT, CLUSTER, UNLIMITED, TargetResources, cluster
from discovery.xds.service_config import Retry, Rule, ServiceConfig

from .servers import until


def many(count: int, zone: str = "") -> list[Endpoint]:
    return [Endpoint(f"10.0.{number // 250}.{number % 250 + 1}", 80, zone) for number in range(count)]


def listener(resources: TargetResources) -> xds.RouteConfiguration:
    """The routes inside the listener."""
    manager = xds.HttpConnectionManager.FromString(
        xds.Listener.FromString(resources.view.listener.body.value).api_listener.api_listener.value
    )
    return manager.route_config


def weights(resources: TargetResources) -> dict[str, int]:
    """Part -> weight, as the last route has it."""
    clusters = listener(resources).virtual_hosts[0].routes[-1].route.weighted_clusters.clusters
    return {entry.name.rpartition("/")[2]: entry.weight.value for entry in clusters}


def assignments(resources: TargetResources) -> dict[str, xds.ClusterLoadAssignment]:
    return {
        name.rpartition("/")[2]: xds.ClusterLoadAssignment.FromString(kept.body.value)
        for name, kept in resources.view.assignments.items()
    }


def addresses(assignment: xds.ClusterLoadAssignment) -> list[tuple[int, str]]:
    """(priority, address) of every endpoint."""
    return [
        (locality.priority, endpoint.endpoint.address.socket_address.address)
        for locality in assignment.endpoints
        for endpoint in locality.lb_endpoints
    ]


def made(
    endpoints: list[Endpoint], zone: str = "", service_config: ServiceConfig | None = None, *, node: str = ""
) -> TargetResources:
    resources = TargetResources("t", zone, service_config or ServiceConfig(), own_node=node)
    resources.update(Snapshot.of(endpoints))
    return resources


def test_a_small_set_stays_whole() -> None:
    """Splitting has a price, and a small set has nothing to gain."""
    assert weights(made(many(WHOLE))) == {"1-0": 1}


def test_a_change_of_a_small_set_leaves_the_listener_as_it_is() -> None:
    """Another one would be a second message, and a new config selector in gRPC: a third of the time to the first call."""
    resources = TargetResources("t", "", ServiceConfig())
    before = resources.view.listener
    for size in (3, 4, 1, WHOLE, 2):
        assert resources.update(Snapshot.of(many(size)))
        assert resources.view.listener is before


@pytest.mark.parametrize("size", [65, 100, 1000, 5000])
def test_a_large_set_is_split_over_weighted_clusters_that_together_hold_it(size: int) -> None:
    """Every endpoint once; each part about as heavy as it is large; none small enough to be lost alone."""
    resources = made(many(size))
    parts = assignments(resources)
    held = [address for part in parts.values() for _, address in addresses(part)]
    assert sorted(held) == sorted(endpoint.address for endpoint in many(size))
    assert weights(resources) == {name: len(addresses(part)) for name, part in parts.items()}
    assert len(parts) > 1
    assert size / len(parts) >= SMALLEST_PART


def test_one_server_in_the_place_of_another_changes_one_part_of_a_large_set() -> None:
    """What stays keeps its version, so that gRPC does not rebuild it."""
    endpoints = many(1001)
    resources = made(endpoints[:1000])
    before, route = dict(resources.view.assignments), resources.view.listener
    resources.update(Snapshot.of(endpoints[1:]))
    changed = {name for name, kept in resources.view.assignments.items() if kept is not before.get(name)}
    assert len(changed) == 1
    assert resources.view.listener is route, "one endpoint more or less is within the route's tolerance"


def test_the_route_follows_when_the_weights_drift() -> None:
    """The tolerance bounds the error; it does not add up."""
    endpoints = many(1000)
    resources = made(endpoints)
    for removed in range(1, 500):
        resources.update(Snapshot.of(endpoints[removed:]))
        parts = assignments(resources)
        for name, weight in weights(resources).items():
            assert abs(len(addresses(parts[name])) - weight) <= 0.1 * weight


def test_a_part_that_runs_empty_leaves_the_route_and_is_not_emptied() -> None:
    """gRPC may still be choosing it for the moment; what it holds is better than nothing."""
    endpoints = [endpoint._replace(zone="ab"[number % 2]) for number, endpoint in enumerate(many(200))]
    resources = made(endpoints, "a")
    count = len(weights(resources))
    own = {address for priority, address in addresses(assignments(resources)[f"{count}-0"]) if priority == 0}
    resources.update(Snapshot.of(endpoint for endpoint in endpoints if endpoint.address not in own))
    assert f"{count}-0" not in weights(resources)
    assert {address for priority, address in addresses(assignments(resources)[f"{count}-0"]) if priority == 0} == own


@given(st.lists(st.sets(st.integers(0, 120), min_size=1), max_size=12), st.sampled_from([1, 2, 4, 8]))
def test_parts_hold_each_endpoint_once_and_none_grows_too_small(sets: list[set[int]], count: int) -> None:
    """Whatever comes and goes; and what is told to have changed is all that has."""
    pool = many(121)
    parts, last = Parts(), frozenset(pool[:count])
    parts.deal(last, count)
    for chosen in sets:
        wanted = frozenset(pool[number] for number in chosen)
        before = list(parts.held)
        touched = parts.change(wanted - last, last - wanted)
        last = wanted
        assert sorted(endpoint for held in parts.held for endpoint in held) == sorted(wanted)
        assert {number for number in range(count) if parts.held[number] != before[number]} <= touched
        assert min(map(len, parts.held)) * 2 * count >= len(wanted) - count


def test_neighbours_and_zones_are_spread_over_all_parts() -> None:
    """What dies together is not a part."""
    parts = Parts()
    parts.deal([endpoint._replace(zone="abc"[number % 3]) for number, endpoint in enumerate(many(240))], 8)
    for held in parts.held:
        assert Counter(endpoint.zone for endpoint in held) == {"a": 10, "b": 10, "c": 10}


def test_an_empty_set_is_said() -> None:
    """There must be a cluster, and nothing in it: gRPC then fails calls at once instead of waiting."""
    resources = made(many(3))
    resources.update(Snapshot())
    assert weights(resources) == {"1-0": 1}
    assert addresses(assignments(resources)["1-0"]) == []


def held(resources: TargetResources, part: str) -> list[str]:
    """The addresses in a part that gRPC asks for by its name, whether it is in the route or not."""
    found = resources.view.find(f"xdstp://grpc-discovery/{ASSIGNMENT}/t/{part}")
    if found is None:
        return []
    message = xds.ClusterLoadAssignment.FromString(found.body.value)
    assert message.cluster_name.endswith(f"/t/{part}")
    return [address for _, address in addresses(message)]


def test_a_part_of_another_number_of_parts_follows_the_set() -> None:
    """A call that waits was routed to it for good, so it holds servers of the present set."""
    resources = made(many(60))
    assert len(held(resources, "1-0")) == 60
    resources.update(Snapshot.of(many(260)[60:]))
    first = held(resources, "1-0")
    assert len(first) >= SMALLEST_PART
    assert set(first) < {endpoint.address for endpoint in many(260)[60:]}
    resources.update(Snapshot.of(many(3)))
    assert {*held(resources, "8-5")} == {endpoint.address for endpoint in many(3)}


def test_before_the_first_set_everything_but_the_endpoints_is_there() -> None:
    """gRPC takes a Listener or Cluster that is missing for 15 s for deleted, and does not wake the calls that wait for it."""
    resources = TargetResources("t", "", ServiceConfig())
    assert weights(resources) == {"1-0": 1}
    assert resources.view.find(f"xdstp://grpc-discovery/{CLUSTER}/t/1-0") is not None
    assert resources.view.find(f"xdstp://grpc-discovery/{ASSIGNMENT}/t/1-0") is None
    resources.update(Snapshot.of(many(500)))
    assert held(resources, "1-0"), "a call that has waited for the first set is routed to the first part for good"


@given(st.integers(0, 20_000), st.lists(st.integers(-1, 1), max_size=50))
def test_a_set_that_hovers_does_not_flap(size: int, steps: list[int]) -> None:
    """Around any size, small changes change the number of parts at most once."""
    count = part_count(size)
    seen = [count]
    for step in steps:
        size = max(0, size + step)
        count = part_count(size, count)
        if count != seen[-1]:
            seen.append(count)
    assert len(seen) <= 2


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 400), unique=True, max_size=300), max_size=8), st.sampled_from(["", "z0", "z1"]))
def test_any_sequence_of_sets_ends_with_the_last_one(sets: list[list[int]], zone: str) -> None:
    """Whatever was built step by step says what building it at once would say."""
    pool = [endpoint._replace(zone=f"z{number % 3}", weight=1 + number % 2) for number, endpoint in enumerate(many(401))]
    resources = TargetResources("t", zone, ServiceConfig())
    for chosen in sets:
        snapshot = Snapshot.of([pool[number] for number in chosen])
        resources.update(snapshot)
        routed = weights(resources)
        parts = assignments(resources)
        held = Counter(address for name in routed for _, address in addresses(parts[name]))
        assert set(held) <= {endpoint.address for endpoint in snapshot.endpoints}
        local = preference(snapshot.endpoints, zone).zone
        owed = {endpoint.address for endpoint in snapshot.endpoints if not local or endpoint.zone == zone}
        assert owed <= set(held)
        assert set(held.values()) <= {1}
        for name in routed:
            priorities = {locality.priority for locality in parts[name].endpoints}
            assert priorities == set(range(len(priorities))), "a gap in priorities is refused"
            assert all(locality.load_balancing_weight.value for locality in parts[name].endpoints), (
                "gRPC drops what has no weight"
            )


def test_the_circuit_breaker_is_raised_and_no_timeout_is_set() -> None:
    """gRPC would stop the 1,025th concurrent call, and fires route timeouts early."""
    assert (
        xds.Cluster.FromString(cluster("xdstp://x/y/t/1-0", None).body.value).circuit_breakers.thresholds[0].max_requests.value
        == UNLIMITED
    )
    assert "timeout" not in str(listener(made(many(1))))


def test_outlier_detection_goes_by_the_share_of_failed_calls_and_can_be_off() -> None:
    """gRPC would otherwise add the success rate; in a small set its bounds must be low (gRFC A50)."""
    sent = xds.Cluster.FromString(cluster("xdstp://x/y/t/1-0", Outliers(threshold=70, interval=0.5)).body.value).outlier_detection
    assert (sent.failure_percentage_threshold.value, sent.interval.nanos) == (70, 500_000_000)
    assert sent.HasField("enforcing_success_rate")
    assert sent.enforcing_success_rate.value == 0
    assert sent.failure_percentage_minimum_hosts.value == 2
    off = cluster("xdstp://x/y/t/1-0", None)
    assert not xds.Cluster.FromString(off.body.value).HasField("outlier_detection")


@pytest.mark.parametrize(
    "wrong", [{"threshold": 101}, {"max_percent": 0}, {"min_requests": 0}, {"interval": 0}, {"ejection": 900.0}]
)
def test_outlier_detection_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    """With the name and the value in the sentence."""
    with pytest.raises(TargetError, match=rf"Outliers\(({next(iter(wrong))}|max_ejection)="):
        Outliers(**wrong)  # type: ignore[arg-type]


def test_retry_rules_become_routes() -> None:
    """In their order, an exemption as a route without a policy; the last route fits everything."""
    retry = Retry(3, ("unavailable",), 0.01, 1.0)
    config = ServiceConfig((Rule("/s/n", None), Rule("/s/m", retry), Rule("/s/", retry), Rule("", retry)))
    routes = listener(made(many(1), service_config=config)).virtual_hosts[0].routes
    assert [(route.match.path or route.match.prefix, route.route.HasField("retry_policy")) for route in routes] == [
        ("/s/n", False),
        ("/s/m", True),
        ("/s/", True),
        ("", True),
        ("", False),
    ]
    assert routes[1].route.retry_policy.num_retries.value == 2
    assert routes[1].match.HasField("path")
    assert routes[-1].match.HasField("prefix"), "an empty prefix must be on the wire"


@pytest.mark.parametrize(
    ("zones", "own", "local"),
    [
        ({"a": 3, "b": 3, "c": 3}, "a", True),
        ({"a": 2, "b": 4, "c": 4}, "a", True),
        ({"a": 1, "b": 4, "c": 4}, "a", False),
        ({"a": 0, "b": 3}, "a", False),
        ({"a": 3}, "a", False),
        ({"a": 3, "b": 3}, "", False),
        ({"a": 3, "b": 3}, "elsewhere", False),
    ],
)
def test_the_own_zone_must_be_half_as_strong_as_an_even_share(zones: dict[str, int], own: str, local: bool) -> None:
    """Fewer would be overloaded by a whole zone's clients."""
    endpoints = [
        Endpoint(f"10.{index}.0.{number + 1}", 80, zone)
        for index, (zone, count) in enumerate(zones.items())
        for number in range(count)
    ]
    assert preference(endpoints, own) == Preference(zone=own if local else "")


@pytest.mark.parametrize(
    ("hints", "counts"),
    [
        ([("a",), ("b",), ("b", "c")], True),
        ([("b",), ("b",), ("c",)], False),  # none for this zone
        ([("a",), (), ("b",)], False),  # one is without: the registry is not done yet
    ],
)
def test_hints_count_where_every_endpoint_has_one(hints: list[tuple[str, ...]], counts: bool) -> None:
    """They are the registry's own share-out, so the rule of half a share does not apply to them; nodes' are like zones'."""
    endpoints = [endpoint._replace(hints=hint) for endpoint, hint in zip(many(3, "x"), hints, strict=True)]
    assert preference(endpoints, "a") == (Preference(zone="a", hinted=True) if counts else Preference())
    endpoints = [endpoint._replace(node_hints=hint) for endpoint, hint in zip(many(3, "x"), hints, strict=True)]
    assert preference(endpoints, "", "a") == Preference(node="a" if counts else "")
    assert preference(endpoints, "a", "") == Preference()


def test_hinted_endpoints_come_first_and_the_others_stay_in_reserve() -> None:
    """Of all zones, by their hints alone."""
    own, other = many(2, "b")
    resources = made([own._replace(hints=("a",)), other._replace(hints=("b",))], "a")
    [part] = assignments(resources).values()
    assert addresses(part) == [(0, own.address), (1, other.address)]


@pytest.mark.parametrize("zone", ["", "a"])
def test_the_own_node_comes_before_the_own_zone_and_the_rest(zone: str) -> None:
    """Priorities have no gap, also where nothing is known of a zone; the locality of each is its own."""
    hints = [("n1", "a"), ("n2", "a"), ("n2", "b")]
    near, own, other = (
        endpoint._replace(node_hints=(node,), hints=(where,)) for endpoint, (node, where) in zip(many(3), hints, strict=True)
    )
    [part] = assignments(made([near, own, other], zone, node="n1")).values()
    assert addresses(part) == [(0, near.address), (1, own.address), (2 if zone else 1, other.address)]
    assert len({locality.locality.zone for locality in part.endpoints}) == len({priority for priority, _ in addresses(part)})


def test_calls_go_to_the_own_node_then_to_the_own_zone_then_to_the_rest() -> None:
    """By gRPC itself, as one after the other dies."""
    with testing.backends(("node", "zone", "rest")) as servers:
        node, zone, rest = servers
        manual = Manual("near")
        hints = {"node": ("n1", "a"), "zone": ("n2", "a"), "rest": ("n3", "b")}
        manual.set(
            Endpoint("127.0.0.1", server.port, hints=hints[server.name][1:], node_hints=hints[server.name][:1])
            for server in servers
        )
        with insecure_channel(manual.target, config=Config(node="n1", zone="a", health=None)) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(testing.WHO)

            def answers() -> bytes:
                try:
                    return call(b"", timeout=20, wait_for_ready=True)
                except grpc.RpcError:  # it was on its way to the one that died
                    return b""

            assert {answers() for _ in range(20)} == {b"node"}
            node.kill()
            until(lambda: answers() == b"zone")
            assert {answers() for _ in range(20)} == {b"zone"}
            zone.kill()
            until(lambda: answers() == b"rest")
            assert rest.calls


def test_of_a_large_set_only_the_parts_with_an_endpoint_for_the_own_node_get_calls() -> None:
    """Each by how many it holds of them; the others of the part are its reserve."""
    endpoints = [endpoint._replace(node_hints=(f"n{number % 50}",)) for number, endpoint in enumerate(many(200))]
    resources = made(endpoints, node="n7")
    first = [
        address for name in weights(resources) for priority, address in addresses(assignments(resources)[name]) if priority == 0
    ]
    assert sorted(first) == sorted(endpoint.address for endpoint in endpoints[7::50])
    assert sum(weights(resources).values()) == len(first)


def test_only_ready_endpoints_are_used_and_draining_ones_before_none() -> None:
    """Unknown counts as ready; unhealthy never serves."""
    a, b, c, d = (Endpoint(f"10.0.0.{index}", 80, health=health) for index, health in enumerate(Health, 1))
    assert usable(frozenset({a, b, c, d})) == {a, b}
    assert usable(frozenset({c, d})) == {d}
    assert usable(frozenset({c})) == frozenset()


def test_names_of_resources_begin_with_our_authority() -> None:
    """An old-style name would be asked of the user's own control plane."""
    assert all(name.startswith(f"xdstp://grpc-discovery/{ASSIGNMENT}/t/") for name in made(many(100)).view.assignments)
