"""sources/kubernetes on a real API server: its own promises; those of every source are in conformance/."""

import base64
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from discovery import Config, Empty, SourceError
from discovery.resolving.failover import open_resolver
from discovery.snapshot import Snapshot
from discovery.target import parse

from .servers import DEADLINE, until

pytest.importorskip("kubernetes", reason="kubeconfigs need kubernetes: pip install kubernetes")

from discovery.sources.kubernetes import source as code
from discovery.sources.kubernetes.source import SLOW_RETRY
from discovery.testing import Proxy

from . import cluster_api
from .cluster_api import Namespace, Watch, context, end_watches, first, found, kubeconfig, opened, ready

pytestmark = pytest.mark.cluster

A, B, C, D = (f"10.1.0.{number}" for number in range(1, 5))
_names = itertools.count()


@pytest.fixture(scope="module")
def place() -> Iterator[Namespace]:
    with cluster_api.namespace() as made:
        yield made


@pytest.fixture
def service(place: Namespace) -> str:
    """A Service of the test's own."""
    name = f"greeter-{next(_names)}"
    place.service(name)
    return name


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    end_watches()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(cluster_api.server())
    yield made
    made.close()


# ---- sets ----


@pytest.mark.parametrize("sizes", [(1, 2, 3), (3, 2, 1), (1, 3, 2), (3, 1, 2)])
def test_every_scaling_is_one_new_set(place: Namespace, service: str, sizes: tuple[int, ...]) -> None:
    """Whole, and with nothing in between."""
    place.slice(service, ready(*(A, B, C)[: sizes[0]]))
    watch = Watch(opened(f"kubernetes:///{service}.{place.name}"))
    for size in sizes[1:]:
        watch.sees(*(A, B, C)[: sizes[sizes.index(size) - 1]])
        place.slice(service, ready(*(A, B, C)[:size]))
    watch.sees(*(A, B, C)[: sizes[-1]])
    watch.close()


def test_a_change_of_one_slice_leaves_the_others_as_they_are(place: Namespace, service: str) -> None:
    """Update one of three, empty one, delete one by one; when all are gone the set is empty and a sentence says why."""
    for name, address in (("a", A), ("b", B), ("c", C)):
        place.slice(service, ready(address), name=f"{service}-{name}")
    watch = Watch(opened(f"kubernetes:///{service}.{place.name}"))
    watch.sees(A, B, C)
    place.slice(service, ready(D), name=f"{service}-b")
    watch.sees(A, D, C)
    place.slice(service, [], name=f"{service}-c", ports=None)
    watch.sees(A, D)
    place.delete_slice(f"{service}-a")
    watch.sees(D)
    place.delete_slice(f"{service}-b")
    watch.sees()
    place.delete_slice(f"{service}-c")
    nothing = watch.next()
    assert nothing == Snapshot()
    assert f"Service '{service}' in namespace '{place.name}' has no EndpointSlice" in nothing.problems[0]
    watch.close()


def test_the_same_addresses_under_a_new_version_are_no_change(place: Namespace, service: str) -> None:
    """The controller touches slices for reasons that concern no client; an equal set may be told, another not."""
    old = place.slice(service, ready(A))
    watch = Watch(opened(f"kubernetes:///{service}.{place.name}"))
    watch.sees(A)
    assert place.slice(service, ready(A), annotations={"touched": "yes"}) != old
    place.slice(service, ready(A, B))
    watch.sees(A, B)
    watch.close()


def test_what_the_api_server_writes_of_an_endpoint_that_is_the_same_is_not_read_again(place: Namespace, service: str) -> None:
    """This holds only as long as it writes EndpointSlices in the form that is expected."""
    place.slice(service, ready(A, B))
    watch = Watch(opened(f"kubernetes:///{service}.{place.name}"))
    watch.sees(A, B)
    seen = []
    for third in (C, D):
        place.slice(service, ready(A, B, third))
        seen.append({endpoint.address: endpoint for endpoint in watch.next().endpoints})
    assert [seen[0][address] is seen[1][address] for address in (A, B)] == [True, True]
    watch.close()


def test_each_slice_has_its_own_number_for_a_named_port(place: Namespace, service: str) -> None:
    """Two versions of a pod may listen on two numbers."""
    place.slice(service, ready(A), name=f"{service}-a")
    place.slice(service, ready(B), name=f"{service}-b", ports=[{"name": "grpc", "port": 50052}])
    snapshot = first(f"kubernetes:///{service}.{place.name}:grpc")
    assert {endpoint[:2] for endpoint in snapshot.endpoints} == {(A, 50051), (B, 50052)}


@pytest.mark.parametrize("form", ["{}.{}", "{}.{}:grpc", "{}.{}:50051", "{}.{}.svc:grpc", "{}.{}.svc.cluster.local:grpc"])
def test_a_service_may_be_named_as_dns_names_it(place: Namespace, service: str, form: str) -> None:
    """Whatever the cluster's suffix is. A Service whose name only begins alike is another."""
    place.slice(service, ready(A))
    place.slice(f"{service}-other", ready(B))
    assert found(first("kubernetes:///" + form.format(service, place.name))) == {A}


def test_ipv6_zones_and_hints_come_through_the_api(place: Namespace, service: str) -> None:
    """As the API server writes them out."""
    where = {"zone": "z-a", "nodeName": "n-1", "hints": {"forZones": [{"name": "z-b"}], "forNodes": [{"name": "n-2"}]}}
    place.slice(service, [{"addresses": ["fd00::1"], **where}], address_type="IPv6")
    (only,) = first(f"kubernetes:///{service}.{place.name}").endpoints
    assert (only.authority, only.zone, only.node, only.hints) == ("[fd00::1]:50051", "z-a", "n-1", ("z-b",))
    assert only.node_hints == ("n-2",)


def test_a_port_that_is_not_there_is_an_error_that_names_those_that_are(place: Namespace, service: str) -> None:
    """Tried again slowly, as a person must change something."""
    place.slice(service, ready(A), ports=[{"name": "http", "port": 80}, {"name": "admin", "port": 81}])
    where = f"Service '{service}' in namespace '{place.name}' has"
    for suffix, fact in ((":grpc", "no port 'grpc'"), ("", "several ports, none of them called 'grpc'")):
        with pytest.raises(SourceError, match=rf"{where} {fact}; there are: admin \(81\), http \(80\)") as error:
            first(f"kubernetes:///{service}.{place.name}{suffix}")
        assert error.value.retry_after == SLOW_RETRY


def test_a_port_that_one_slice_lacks_is_a_problem_and_costs_the_others_nothing(place: Namespace, service: str) -> None:
    """The sentence names what that slice has."""
    place.slice(service, ready(A), name=f"{service}-a")
    place.slice(service, ready(B), name=f"{service}-b", ports=[{"name": "http", "port": 80}])
    snapshot = first(f"kubernetes:///{service}.{place.name}:grpc")
    assert found(snapshot) == {A}
    assert "has no port 'grpc'; there are: http (80)" in snapshot.problems[0]


def test_a_service_without_slices_is_an_empty_set_with_a_reason_until_they_come(place: Namespace) -> None:
    """A name that does not exist looks the same: the sentence says to check both."""
    watch = Watch(opened(f"kubernetes:///unknown.{place.name}"))
    nothing = watch.next()
    assert (len(nothing), len(nothing.problems)) == (0, 1)
    assert "check both names, and that the Service has a selector" in nothing.problems[0]
    place.slice("unknown", ready(A))
    watch.sees(A)
    watch.close()


def test_pods_that_count_as_not_ready_all_at_once_are_called_on_for_a_while(place: Namespace, service: str) -> None:
    """So it is for about a minute after an API server's return; what is ready again counts at once."""
    place.slice(service, ready(A, B))
    resolver = open_resolver(parse(f"kubernetes:///{service}.{place.name}"), Config(empty=Empty("hold", 3600)))
    resolver.start()
    try:
        resolver.wait_until_synced(DEADLINE)
        both = resolver.status.snapshot
        lost = {"ready": False, "serving": False, "terminating": False}
        place.slice(service, [{**endpoint, "conditions": lost} for endpoint in ready(A, B)])
        until(lambda: "none of its 2 endpoints as ready" in (resolver.status.suspicious or ""))
        assert resolver.status.snapshot == both
        place.slice(service, ready(B))
        until(lambda: found(resolver.status.snapshot or Snapshot()) == {B})
        assert resolver.status.suspicious is None
    finally:
        resolver.close()


# ---- credentials ----


def test_the_namespace_defaults_to_the_contexts(place: Namespace, service: str, tmp_path: Path) -> None:
    """The current context, or the one that was chosen; without a namespace there it is 'default'."""
    place.slice(service, ready(A))
    file = kubeconfig(tmp_path / "config", current=context(namespace="default"), chosen=context(namespace=place.name))
    assert found(first(f"kubernetes:///{service}", kubeconfig=file, context="chosen")) == {A}
    assert "in namespace 'default'" in first(f"kubernetes:///{service}", kubeconfig=file).problems[0]
    file = kubeconfig(tmp_path / "config", current=context())
    assert "in namespace 'default'" in first(f"kubernetes:///{service}", kubeconfig=file).problems[0]


class Account:
    """What a pod finds of its ServiceAccount."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        (folder / "ca.crt").write_bytes(base64.b64decode(cluster_api.authority()))
        (folder / "namespace").write_text(f"{namespace}\n")

    def write(self, token: str) -> None:
        """Replace the token as the kubelet does: in one step."""
        (self.folder / "new").write_text(token)
        (self.folder / "new").rename(self.folder / "token")


@pytest.fixture
def pod(place: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """This process is a pod of the namespace, without a token so far."""
    host, port = cluster_api.server()
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    monkeypatch.setattr(code, "ACCOUNT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # a pod's image need not have it
    return Account(tmp_path, place.name)


def test_in_a_pod_the_account_its_namespace_and_a_small_role_are_enough(place: Namespace, service: str, pod: Account) -> None:
    """Get, list and watch on endpointslices in one namespace, and no setting at all."""
    place.slice(service, ready(A))
    pod.write(place.token(place.account(f"{service}-reader", "get", "list", "watch")))
    watch = Watch(opened(f"kubernetes:///{service}"))
    watch.sees(A)
    place.slice(service, ready(B))
    watch.sees(B)
    watch.close()


def test_a_token_that_is_no_longer_accepted_is_replaced_by_what_the_file_holds_by_then(
    place: Namespace, service: str, pod: Account
) -> None:
    """Tokens of pods live for an hour; the same source goes on with the next one."""
    place.slice(service, ready(A))
    pod.write("expired")
    source = opened(f"kubernetes:///{service}")
    for _ in range(2):
        with pytest.raises(SourceError, match="answers 401: it does not accept the credentials: renew them") as error:
            next(source.watch())
        assert error.value.retry_after == SLOW_RETRY
    pod.write(place.token(place.account(f"{service}-reader", "get", "list", "watch")))
    with contextlib.suppress(SourceError):  # the old token's last request may be what makes it read the file
        next(source.watch())
    assert found(next(source.watch())) == {A}


@pytest.mark.parametrize("fault", ["gone", "empty"])
def test_a_token_file_that_fails_later_is_an_error_that_passes(place: Namespace, service: str, pod: Account, fault: str) -> None:
    """The resolver tries again, as for whatever else is wrong for a while."""
    place.slice(service, ready(A))
    pod.write("expired")
    source = opened(f"kubernetes:///{service}")
    if fault == "gone":
        (pod.folder / "token").unlink()
    else:
        pod.write("")
    for _ in range(2):
        with pytest.raises(SourceError):
            next(source.watch())
    pod.write(place.token(place.account(f"{service}-reader", "get", "list", "watch")))
    with contextlib.suppress(SourceError):
        next(source.watch())
    assert found(next(source.watch())) == {A}


@pytest.mark.parametrize("verbs", [(), ("get", "list")], ids=["nothing", "no watch"])
def test_an_account_without_the_right_is_told_the_role_that_it_needs(
    place: Namespace, service: str, tmp_path: Path, verbs: tuple[str, ...]
) -> None:
    """Tried again slowly, as a person must change something."""
    place.slice(service, ready(A))
    token = place.token(place.account(service, *verbs))
    source = opened(f"kubernetes:///{service}.{place.name}", kubeconfig=kubeconfig(tmp_path / "config", one=context(token=token)))
    remedy = f"answers 403: the account may not read EndpointSlices in namespace '{place.name}': bind it to a Role with get, list and watch"
    with pytest.raises(SourceError, match=remedy) as error:
        list(source.watch())
    assert error.value.retry_after == SLOW_RETRY
    assert f"system:serviceaccount:{place.name}:{service}" in str(error.value)


# ---- the watch ----


def test_a_watch_that_the_server_ends_goes_on_where_it_was(
    place: Namespace, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times, without a new list and without a restart; then close returns."""
    monkeypatch.setattr(code, "WATCH_TIME", 1)
    place.slice(service, ready(A))
    watch = Watch(opened(f"kubernetes:///{service}.{place.name}"))
    watch.sees(A)
    assert watch.asked.get(timeout=DEADLINE) == {}
    for address in (B, C, D):
        assert watch.asked.get(timeout=DEADLINE)["watch"]
        place.slice(service, ready(address))
        watch.sees(address)
    assert watch.asked.get(timeout=DEADLINE)["watch"]
    watch.close()


def test_a_version_that_is_too_old_is_listed_anew(place: Namespace, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server's own 410: the watch ends without an error, and the next begins with the whole set."""
    place.slice(service, ready(A))
    source = opened(f"kubernetes:///{service}.{place.name}")
    with monkeypatch.context() as patch:
        patch.setattr(source, "_events", lambda connection, version, events=source._events: events(connection, "1"))
        assert [found(snapshot) for snapshot in source.watch()] == [{A}]
    assert found(next(source.watch())) == {A}


@pytest.mark.parametrize("fault", ["cut", "refuse"])
def test_a_connection_that_breaks_is_an_error_and_what_changed_is_in_the_next_list(
    place: Namespace, service: str, proxy: Proxy, tmp_path: Path, fault: str
) -> None:
    """The sentence names the API server."""
    place.slice(service, ready(A))
    file = kubeconfig(tmp_path / "config", one=context(url=f"https://{proxy.address}"))
    source = opened(f"kubernetes:///{service}.{place.name}", kubeconfig=file)
    watch = Watch(source)
    watch.sees(A)
    watch.watching()
    getattr(proxy, fault)()
    place.slice(service, ready(B))
    sentence = f"the Kubernetes API at https://{proxy.address} cannot be read: "
    assert sentence in str(watch.end())
    if fault == "refuse":
        assert sentence in str(Watch(source).end())
    proxy.mend()
    watch = Watch(source)
    watch.sees(B)
    watch.close()


def test_a_silent_watch_is_an_error(place: Namespace, service: str, proxy: Proxy, tmp_path: Path) -> None:
    """A connection that lives but says nothing would hide every change for ever."""
    place.slice(service, ready(A))
    file = kubeconfig(tmp_path / "config", one=context(url=f"https://{proxy.address}"))
    watch = Watch(opened(f"kubernetes:///{service}.{place.name}", kubeconfig=file, silence=1))
    watch.sees(A)
    watch.watching()
    proxy.silence()
    place.slice(service, ready(B))
    error = watch.end()
    assert isinstance(error, SourceError)
    assert "cannot be read: TimeoutError" in str(error)


@pytest.mark.parametrize("silent", [False, True])
def test_close_ends_a_blocked_watch(place: Namespace, service: str, proxy: Proxy, tmp_path: Path, silent: bool) -> None:
    """Long before its silence of an hour is over, even if the network is gone; later ones end at once, and so does a second close."""
    file = kubeconfig(tmp_path / "config", one=context(url=f"https://{proxy.address}"))
    watch = Watch(opened(f"kubernetes:///{service}.{place.name}", kubeconfig=file, silence=3600))
    watch.sees()
    watch.watching()
    if silent:
        proxy.silence()
    watch.close()
    watch.source.close()


def test_a_certificate_that_is_not_trusted_is_named_in_the_error(place: Namespace, service: str, tmp_path: Path) -> None:
    """A kubeconfig of another cluster with the same address is a common mistake."""
    one = context()
    one["cluster"] = {**one["cluster"], "certificate-authority-data": base64.b64encode(trustme.CA().cert_pem.bytes()).decode()}
    with pytest.raises(SourceError, match="cannot be read: .*certificate verify failed"):
        first(f"kubernetes:///{service}.{place.name}", kubeconfig=kubeconfig(tmp_path / "config", one=one))
