"""docs/operating.md and docs/configuration.md of a project: their blocks fit the manifests, and do what the pages say of them."""

import json
import re
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bake import ROOT, SLUG

from .rendered import NEEDS_KUBECTL
from .snippets import sections

pytestmark = NEEDS_KUBECTL

OPERATING, CONFIGURATION = "docs/operating.md", "docs/configuration.md"
DNS, DNS_CACHE = "    - to: # DNS\n", "        - ipBlock: {cidr: 169.254.20.10/32}\n"
BLOCKS = [(page, title) for page in (OPERATING, CONFIGURATION) for title in sections((ROOT / "template" / page).read_text())]

Objects = dict[tuple[str, str], dict[str, Any]]


def rendered(overlay: Path) -> Objects:
    """By kind and name."""
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)}


@pytest.fixture
def applied(greeter: Path) -> Callable[[str, str], Objects]:
    """A section's blocks, applied to a fresh project; the overlay `kubernetes` afterwards."""

    def apply(page: str, title: str) -> Objects:
        for snippet in sections((greeter / page).read_text())[title]:
            snippet.apply(greeter)
        return rendered(greeter / "deploy" / "overlays" / "kubernetes")

    return apply


@pytest.mark.parametrize(("page", "title"), BLOCKS)
def test_after_the_blocks_of_a_section_every_overlay_is_rendered(
    greeter: Path, applied: Callable[[str, str], Objects], page: str, title: str
) -> None:
    """They are edits of files that a project has."""
    applied(page, title)
    for overlay in (greeter / "deploy" / "overlays").iterdir():
        assert rendered(overlay)


def test_a_caller_from_another_namespace_gets_the_role_and_is_admitted(applied: Callable[[str, str], Objects]) -> None:
    """By its account, and by the labels of its pods in its namespace."""
    found = applied(OPERATING, "Who may do what?")
    binding = found["RoleBinding", f"{SLUG}-callers"]
    assert ("Role", binding["roleRef"]["name"]) in found
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "frontend", "namespace": "shop"}]
    rules = found["NetworkPolicy", f"{SLUG}-server"]["spec"]["ingress"]
    assert [rule["ports"] for rule in rules] == [[{"port": 50051}]] * 2
    assert rules[0]["from"][0].keys() == {"namespaceSelector", "podSelector"}


def test_the_number_of_servers_is_a_line_of_an_overlay(applied: Callable[[str, str], Objects]) -> None:
    """Of the servers only."""
    found = applied(OPERATING, "Replicas")
    assert found["Deployment", f"{SLUG}-server"]["spec"]["replicas"] == 5
    assert found["Deployment", f"{SLUG}-load-generator"]["spec"]["replicas"] == 1


def test_mtls_is_a_line_of_an_overlay(applied: Callable[[str, str], Objects]) -> None:
    """On both sides."""
    found = applied(CONFIGURATION, "TLS")
    for side in ("server", "load-generator"):
        env = found["Deployment", f"{SLUG}-{side}"]["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": f"{SLUG.upper()}__TLS__MODE", "value": "mtls"} in env


def test_the_address_of_a_dns_cache_goes_below_one_line_of_both_policies(greeter: Path) -> None:
    """As a peer of the rule for port 53."""
    assert f"```yaml\n{DNS}{DNS_CACHE}```" in (greeter / OPERATING).read_text()
    for side in ("server", "client"):
        policy = greeter / "deploy" / side / "network.yaml"
        assert policy.read_text().count(DNS) == 1
        policy.write_text(policy.read_text().replace(DNS, DNS + DNS_CACHE))
        rules = rendered(greeter / "deploy" / "overlays" / "dns")["NetworkPolicy", f"{SLUG}-{side}"]["spec"]["egress"]
        [peers] = [rule["to"] for rule in rules if rule["ports"][0]["port"] == 53]
        assert peers[0] == {"ipBlock": {"cidr": "169.254.20.10/32"}}


def env(deployment: dict[str, Any]) -> dict[str, str]:
    """A Deployment's settings without their prefix."""
    entries = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return {each["name"].removeprefix(f"{SLUG.upper()}__"): each["value"] for each in entries if "value" in each}


def test_the_arguments_of_resolve_are_what_the_clients_of_each_mode_have(greeter: Path) -> None:
    """It reads none of their settings. Of what gRPC resolves itself, it shows the addresses of the same name."""
    modes = (greeter / OPERATING).read_text().partition("\n## Modes\n")[2].partition("\n### ")[0]
    table, _, block = modes.partition("```sh\n")
    last: dict[str, str] = dict(re.findall(r"^\| `([a-z-]+)` \| .* \| ([^|]+) \|$", table, re.MULTILINE))
    assert last.keys() == {path.name for path in (greeter / "deploy" / "overlays").iterdir()} - {"production"}
    for mode, cell in last.items():
        settings = env(rendered(greeter / "deploy" / "overlays" / mode)["Deployment", f"{SLUG}-load-generator"])
        text = {"as in the block below": block, "the same": last["dns"]}.get(cell, cell)
        [target] = re.findall(r"[a-z-]+:///[^ `]+", text)
        called = settings["CLIENT__TARGET"].replace("$(POD_NAMESPACE)", "$POD_NAMESPACE")
        assert target == re.sub("^(dns|passthrough):", "dns-poll:", called)
        assert re.findall(r"--etcd ([^ `']+)", text) == json.loads(settings.get("DISCOVERY__ETCD__ENDPOINTS", "[]"))


def test_resolve_takes_the_user_of_an_etcd_from_where_its_secret_is_mounted(greeter: Path) -> None:
    """And the CA."""
    modes = (greeter / OPERATING).read_text().partition("\n## Modes\n")[2].partition("\n### ")[0]
    deployment = rendered(greeter / "deploy" / "overlays" / "etcd-external")["Deployment", f"{SLUG}-load-generator"]
    settings, pod = env(deployment), deployment["spec"]["template"]["spec"]
    assert f"cd {settings['SETTINGS_DIR']} " in modes
    assert f"ETCDCTL_CACERT={settings['DISCOVERY__ETCD__CA']} " in modes
    [volume] = [each["secret"] for each in pod["volumes"] if each["name"] == "etcd-user"]
    assert re.findall(r"\$\(cat (\w+)\)", modes) == [each["path"] for each in volume["items"]]


def test_argo_cd_and_flux_deploy_the_image_that_the_examples_name(greeter: Path) -> None:
    """Both edit the overlay's kustomization as these lines do: all pods of the pair run that image."""
    text = (greeter / OPERATING).read_text().partition("## GitOps\n")[2].partition("```yaml\n")[2].partition("```")[0]
    application, kustomization = [item["spec"] for item in yaml.safe_load_all(text)]
    [image] = application["source"]["kustomize"]["images"]
    name, _, new = image.partition("=")
    [entry] = kustomization["images"]
    assert [entry["name"], f"{entry['newName']}:{entry['newTag']}"] == [name, new]
    [tags] = yaml.load((greeter / ".github/workflows/release.yml").read_text(), yaml.BaseLoader)["on"]["push"]["tags"]
    assert fnmatch(entry["newTag"], tags)
    assert kustomization["path"] == f"./{application['source']['path']}"
    outer = greeter / "deploy" / "overlays" / "edited"
    outer.mkdir()
    lines = {"resources": ["../kubernetes"], "images": [entry], "namespace": kustomization["targetNamespace"]}
    (outer / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    found = rendered(outer)
    images = [
        item["spec"]["template"]["spec"]["containers"][0]["image"] for (kind, _), item in found.items() if kind == "Deployment"
    ]
    assert images == [new, new]
    assert {item["metadata"]["namespace"] for item in found.values()} == {"shop"}
