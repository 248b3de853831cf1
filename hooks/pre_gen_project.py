"""Before generation: reject invalid answers, and save what generation would delete."""

import json
import keyword
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

CHOICES = {
    "discovery": ("kubernetes", "dns", "etcd"),
    "python_version": ("3.11", "3.12", "3.13", "3.14"),
}

ASIDE = ".discovery-replaced"
"""Where src/<package>/discovery is copied to, for post_gen_project.py, which has the same constant."""

LONGEST_SLUG = 40
"""Kubernetes names have at most 63 characters; ours get suffixes such as -server-headless and a ReplicaSet's hash."""

_TAKEN = """
    build deploy development discovery docs proto requirements src tests
    aiohappyeyeballs aiohttp aiohttp_retry aiosignal annotated_types ast_serialize attr attrs buf_bin certifi cffi
    charset_normalizer cryptography dateutil dns dotenv durationpy frozenlist google grpc grpc_channelz
    grpc_health grpc_reflection grpc_status grpc_tools honcho idna importlib_resources iniconfig kubernetes librt
    markdown_it mdurl multidict mypy mypy_extensions mypy_protobuf mypyc oauthlib opentelemetry packaging pathspec
    pip pluggy propcache py pycparser pydantic pydantic_core pydantic_settings pygments pytest pytest_asyncio
    pythonjsonlogger requests requests_oauthlib rich ruff setuptools six trustme typing_extensions
    typing_inspection tzdata urllib3 uv websocket wheel wrapt yaml yarl
"""
TAKEN = frozenset(_TAKEN.split())
"""Top-level names of the project itself, then of all that its lock installs; a test compares them with an installation."""

YAML_VALUES = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""What kustomize, which reads YAML 1.1, takes for a boolean or null."""

CONFUSING = frozenset({"client", "log", "registration", "server", "service", "telemetry", "tls"})
"""Sections of the settings, and what would give ServiceClient a second meaning; a test compares them with the template."""


def problems(answers: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each invalid answer."""
    name, slug, package = answers["project_name"], answers["project_slug"], answers["package_name"]
    for key in ("project_name", "description"):
        # U+200D joins the parts of an emoji; Python does not count it as printable.
        if not answers[key].strip() or not answers[key].replace("\u200d", "").isprintable():
            yield f"{key} {answers[key]!r} must be one line of printable text"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or len(slug) > LONGEST_SLUG:
        yield (
            f"project_slug '{slug}' must be lower-case letters, digits and single '-' between them, start with a letter, and have at most "
            f"{LONGEST_SLUG} characters; for '{name}' answer for example order-history"
        )
    elif slug in YAML_VALUES:
        yield f"project_slug '{slug}' is not a string in YAML; choose another, such as {slug}-service"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", package):
        yield (
            f"package_name '{package}' must be lower-case letters, digits and single '_' between them, and start with a letter, "
            "as in order_history"
        )
    elif keyword.iskeyword(package) or keyword.issoftkeyword(package):
        yield f"package_name '{package}' is a Python keyword; choose another, such as {package}_service"
    elif package in CONFUSING:
        yield f"package_name '{package}' is the name of a part of every project; choose another, such as my_{package}"
    elif package in TAKEN or package in sys.stdlib_module_names:
        yield f"package_name '{package}' would hide a package that the project needs; choose another, such as {package}_service"
    registry = r"[a-z0-9]+((\.|-+)[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
    if not re.fullmatch(registry, answers["image_registry"]):
        yield f"image_registry '{answers['image_registry']}' must be a host or host/path in lower case, without a scheme, as in registry.example.com/team"
    for key, known in CHOICES.items():
        if answers[key] not in known:
            yield f"{key} '{answers[key]}' is unknown; answer one of {', '.join(known)}"


def put_aside(root: Path, package: str) -> None:
    """Copy src/<package>/discovery of a project that is generated again, because cookiecutter deletes that folder.

    The hook after generation brings back the files that only the owner has. Where generation fails in between, the copy stays,
    and the next run brings them back.
    """
    library = root / "src" / package / "discovery"
    if library.is_dir():
        shutil.copytree(library, root / ASIDE, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def main(answers: Mapping[str, str]) -> int:
    """Called in the project's folder. Print the errors; returns the exit status."""
    found = list(problems(answers))
    for sentence in found:
        print(f"cookiecutter: {sentence}", file=sys.stderr)
    if not found:
        put_aside(Path.cwd(), answers["package_name"])
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(r"""{{ cookiecutter | tojson }}""")))
