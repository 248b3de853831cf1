"""grpc_schemes.py and service_config.py: targets that gRPC resolves itself, and service configs."""

import json
import logging

import pytest

from discovery import Outliers, TargetError, insecure_channel
from discovery.grpc_schemes import prepare
from discovery.target import parse
from discovery.xds.service_config import OPTION, Retry, Rule, read_service_config

from .servers import servers, share, who


def service_config(target: str, **given: object) -> object:
    """What gRPC is handed for a target, given a service config of the caller's."""
    options = [(OPTION, json.dumps(given))] if given else []
    return json.loads(dict(prepare(parse(target), options)[1])[OPTION])


def test_dns_gets_what_people_set_by_hand_for_a_headless_service() -> None:
    """round_robin and client-side health; what the caller chose stays."""
    assert service_config("dns:///x:80") == {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
    }
    assert service_config("dns:///x:80", methodConfig=[])["methodConfig"] == []  # type: ignore[index]
    assert service_config("dns:///x:80", loadBalancingConfig=[{"pick_first": {}}]) == {
        "loadBalancingConfig": [{"pick_first": {}}]
    }


def test_passthrough_is_one_connection() -> None:
    """gRPC Python has no such resolver and would look the whole text up in DNS."""
    uri, _ = prepare(parse("passthrough:///10.0.0.1:80"), [])
    assert uri == "dns:///10.0.0.1:80"
    with servers("a") as running, insecure_channel(f"passthrough:///{running['a'].address}") as channel:
        assert who(channel) == "a"


@pytest.mark.parametrize("form", ["{}", "dns:///{}", "ipv4:{}"])
def test_grpcs_own_targets_work_as_before(form: str) -> None:
    """Existing code keeps its targets."""
    with servers("a") as running, insecure_channel(form.format(running["a"].address)) as channel:
        assert set(share(channel, 5)) == {"a"}


def test_a_target_without_a_scheme_is_handed_on_untouched() -> None:
    """Not even a default is added: this is what existing code writes."""
    assert prepare(parse("localhost:80"), []) == ("localhost:80", [])


def test_retry_policies_are_read_closest_match_first() -> None:
    """A method before its service, a service before everything."""
    policy = {
        "maxAttempts": 9,
        "initialBackoff": "0.001s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["unavailable", 1],
    }
    config = {"methodConfig": [{"name": [{}, {"service": "s"}, {"service": "s", "method": "m"}], "retryPolicy": policy}]}
    retry = Retry(5, ("cancelled", "unavailable"), 0.01, 1.0)
    assert read_service_config([(OPTION, json.dumps(config))]).rules == (Rule("/s/m", retry), Rule("/s/", retry), Rule("", retry))


def test_an_entry_without_a_policy_is_kept_where_a_broader_one_has_one() -> None:
    """Only there: each kept entry is one more route for gRPC to compare calls with."""
    policy = {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": [14]}
    retry = Retry(2, ("unavailable",), 1.0, 1.0)

    def rules(retried: list[object], exempted: list[object]) -> tuple[Rule, ...]:
        config = {"methodConfig": [{"name": retried, "retryPolicy": policy}, {"name": exempted, "waitForReady": False}]}
        return read_service_config([(OPTION, json.dumps(config))]).rules

    method, service, default = {"service": "s", "method": "m"}, {"service": "s"}, dict[str, str]()
    assert rules([service], [method]) == (Rule("/s/m", None), Rule("/s/", retry))
    assert rules([default], [service, method]) == (Rule("/s/", None), Rule("", retry))
    assert rules([default, method], [service]) == (Rule("/s/m", retry), Rule("/s/", None), Rule("", retry))
    assert rules([method], [service, default]) == (Rule("/s/m", retry),)
    assert rules([], [service, method, default]) == ()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ('{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}}', "retryThrottling has no effect"),
        ('{"methodConfig": [{"timeout": "1s"}]}', "timeout has no effect"),
        ('{"methodConfig": [{"hedgingPolicy": {}}]}', "hedgingPolicy has no effect"),
        ('{"loadBalancingConfig": [{"pick_first": {}}]}', "pick_first has no effect"),
        (
            '{"loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": [{"pick_first": {}}]}}]}',
            "pick_first has no effect",
        ),
        (
            '{"loadBalancingConfig": [{"outlier_detection_experimental": {"successRateEjection": {}, "childPolicy": [{"round_robin": {}}]}}]}',
            "successRateEjection has no effect",
        ),
    ],
)
def test_what_cannot_be_carried_over_is_said(config: str, sentence: str, caplog: pytest.LogCaptureFixture) -> None:
    """gRPC would ignore it without a word."""
    with caplog.at_level(logging.WARNING):
        read_service_config([(OPTION, config)])
    assert sentence in caplog.text


@pytest.mark.parametrize(
    "config",
    [
        "{", "[]", "3", '{"methodConfig": 3}', '{"methodConfig": [{"retryPolicy": {}}]}',
        '{"methodConfig": [{"name": [{}]}, {"name": [{"service": "s"}, {"service": ""}]}]}', '{"methodConfig": [{"name": [{"method": "m"}]}]}',
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2, "retryableStatusCodes": [], "initialBackoff": "1s", "maxBackoff": "1s"}}]}',
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 1, "retryableStatusCodes": [], "initialBackoff": "1s", "maxBackoff": "1s"}}]}',
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2, "retryableStatusCodes": ["UNAVAILABLE"], "initialBackoff": "1", "maxBackoff": "1s"}}]}',
    ],
)  # fmt: skip
def test_a_service_config_of_a_wrong_form_is_refused(config: str) -> None:
    """In one sentence that names the option."""
    with pytest.raises(TargetError, match=OPTION):
        read_service_config([(OPTION, config)])


def test_outlier_detection_is_taken_from_a_service_config() -> None:
    """Existing code that asks gRPC for it keeps it, with gRPC's defaults for what it leaves out."""
    balancer = {
        "interval": "2s",
        "maxEjectionPercent": 40,
        "failurePercentageEjection": {"threshold": 60},
        "childPolicy": [{"round_robin": {}}],
    }
    config = json.dumps({"loadBalancingConfig": [{"outlier_detection_experimental": balancer}]})
    assert read_service_config([(OPTION, config)]).outliers == Outliers(60, 2.0, 50, 30.0, 300.0, 40)
    del balancer["failurePercentageEjection"]
    config = json.dumps({"loadBalancingConfig": [{"outlier_detection_experimental": balancer}]})
    assert read_service_config([(OPTION, config)]).outliers is None


def test_outlier_detection_of_a_service_config_that_cannot_work_is_refused() -> None:
    """By a sentence, as everything else in it."""
    for wrong in ('{"interval": "2", "failurePercentageEjection": {}}', '{"failurePercentageEjection": {"threshold": 101}}'):
        with pytest.raises(TargetError, match="2|101"):
            read_service_config([(OPTION, f'{{"loadBalancingConfig": [{{"outlier_detection_experimental": {wrong}}}]}}')])
