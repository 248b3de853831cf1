"""The properties by grammar: in which test each lies, and how a test about a generated project is reached from here."""

import importlib
import sys
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from lab.bake import SLUG
from lab.project import FRESH

PROPERTIES = {
    "targets": (
        "tests.discovery.test_target:test_any_text_is_a_target_or_a_target_error",
        "tests.discovery.test_snapshot:test_any_text_is_host_and_port_or_a_value_error",
    ),
    "etcd": (
        "tests.discovery.test_etcd_values:test_any_bytes_at_all_are_an_endpoint_or_a_sentence",
        "tests.discovery.test_etcd_values:test_any_json_at_all_is_an_endpoint_or_a_sentence",
    ),
    "slices": (
        "tests.discovery.test_endpoint_slices:test_no_json_whatever_makes_it_raise",
        "tests.discovery.test_endpoint_slices:test_the_order_of_slices_does_not_matter",
    ),
    "cache": ("tests.discovery.test_snapshot_cache:test_a_damaged_file_is_as_good_as_none",),
    "settings": ("tests.pair.test_settings_inputs:test_any_values_at_all_are_settings_or_sentences",),
}
"""Grammar -> tests, module:function. Those of tests.pair import the package of a project with the default answers."""

PACKAGES = ["discovery", SLUG]
"""The code by which inputs are guided."""

PROJECT = "fuzz"
"""The project's folder below build."""

FOLDER = Path("build/fuzz-results")
"""What fuzzing leaves."""


def load(name: str) -> Any:
    """The test. This imports the code that it is about, so it must be instrumented by now."""
    kept = DirectoryBasedExampleDatabase(FOLDER / "broken")
    settings.register_profile("fuzz", database=kept, deadline=None)
    settings.load_profile("fuzz")
    module, _, function = name.rpartition(":")
    if module.startswith("tests.pair."):
        sys.path.insert(0, str(FRESH / PROJECT / SLUG / "src"))
    return getattr(importlib.import_module(module), function)
