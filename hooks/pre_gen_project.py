"""Before anything is written: refuse an answer that cannot work, in one sentence that says what to answer instead."""

import json
import keyword
import re
import sys
from collections.abc import Iterator, Mapping

CHOICES = {
    "discovery": ("kubernetes", "dns", "etcd"),
    "registries": ("all", "chosen"),
    "python_version": ("3.11", "3.12", "3.13", "3.14"),
}

LONGEST_SLUG = 40
"""Kubernetes names hold 63 characters, and ours get endings such as -server-headless and a ReplicaSet's hash."""

TAKEN = frozenset(
    {"discovery", "greeter", "demo", "development", "experiment", "faults", "tests", "benchmarks", "deploy", "docs", "proto"}
    | {"requirements", "src"}
    | {"aiohappyeyeballs", "aiohttp", "aiohttp_retry", "aiosignal", "annotated_types", "ast_serialize", "attr", "attrs"}
    | {"buf_bin", "certifi", "cffi", "charset_normalizer", "contourpy", "cryptography", "cycler", "dateutil", "dns", "dnslib"}
    | {"dotenv", "durationpy", "etcd", "frozenlist", "google", "grpc", "grpc_channelz", "grpc_health", "grpc_reflection"}
    | {
        "grpc_status",
        "grpc_tools",
        "hypothesis",
        "idna",
        "importlib_resources",
        "iniconfig",
        "jsonschema",
        "jsonschema_specifications",
        "kiwisolver",
    }
    | {"kubernetes", "kubernetes_validate", "librt", "markdown_it", "referencing", "rpds"}
    | {"matplotlib", "mdurl", "mpl_toolkits", "multidict", "mypy", "mypy_extensions", "mypy_protobuf", "mypyc", "numpy"}
    | {"oauthlib", "opentelemetry", "packaging", "pathspec", "pip", "pluggy", "propcache", "py", "pycparser", "pydantic"}
    | {"pydantic_core", "pydantic_settings", "pygments", "pylab", "pyparsing", "pytest", "pytest_asyncio", "pythonjsonlogger"}
    | {"requests", "requests_oauthlib", "rich", "ruff", "setuptools", "six", "sortedcontainers", "trustme"}
    | {"typing_extensions", "typing_inspection", "tzdata", "urllib3", "uv", "websocket", "wheel", "wrapt", "yaml", "yarl"}
)
"""Top-level names of the project itself, then of all that its lock installs; a test compares them with an installation."""


def problems(answers: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each answer that cannot work."""
    name, slug, package = answers["project_name"], answers["project_slug"], answers["package_name"]
    for key in ("project_name", "description"):
        if not answers[key].strip() or not answers[key].isprintable():
            yield f"{key} {answers[key]!r} must be one line of printable text"
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", slug) or len(slug) > LONGEST_SLUG:
        yield (
            f"project_slug '{slug}' must be lower-case letters, digits and '-', begin with a letter, not end with '-', and have at most "
            f"{LONGEST_SLUG} characters; for '{name}' answer for example greeter-pair"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package):
        yield f"package_name '{package}' must be lower-case letters, digits and '_', and begin with a letter, as in greeter_pair"
    elif keyword.iskeyword(package) or keyword.issoftkeyword(package):
        yield f"package_name '{package}' is a word of Python itself; answer another, such as {package}_service"
    elif package in TAKEN or package in sys.stdlib_module_names:
        yield f"package_name '{package}' would hide a package that the project needs; answer another, such as {package}_service"
    registry = r"[a-z0-9]+((\.|-+)[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
    if not re.fullmatch(registry, answers["image_registry"]):
        yield f"image_registry '{answers['image_registry']}' must be a host or host/path in lower case, without a scheme, as in registry.example.com/team"
    for key, known in CHOICES.items():
        if answers[key] not in known:
            yield f"{key} '{answers[key]}' is unknown; answer one of {', '.join(known)}"


def main(answers: Mapping[str, str]) -> int:
    """Print what is wrong; the status for the system."""
    found = list(problems(answers))
    for sentence in found:
        print(f"cookiecutter: {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(r"""{{ cookiecutter | tojson }}""")))
