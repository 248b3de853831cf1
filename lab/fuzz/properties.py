"""The properties by grammar: in which test each lies, and how a test of the generated project is reached from here."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.bake import SLUG

PROPERTIES = {
    "targets": (
        "discovery.tests.test_target:test_any_text_is_a_target_or_a_target_error",
        "discovery.tests.test_snapshot:test_any_text_is_host_and_port_or_a_value_error",
    ),
    "etcd": (
        "discovery.tests.test_etcd_values:test_any_bytes_at_all_are_an_endpoint_or_a_sentence",
        "discovery.tests.test_etcd_values:test_any_json_at_all_is_an_endpoint_or_a_sentence",
    ),
    "slices": (
        "discovery.tests.test_endpoint_slices:test_no_json_whatever_makes_it_raise",
        "discovery.tests.test_endpoint_slices:test_the_order_of_slices_does_not_matter",
    ),
    "memory": ("discovery.tests.test_memory:test_a_damaged_file_is_as_good_as_none",),
    "settings": ("project:tests/test_settings_inputs.py:test_any_values_at_all_are_settings_or_sentences",),
}
"""Grammar -> tests, module:function; one of the project's is project:file:function."""

PACKAGES = ["discovery", SLUG.replace("-", "_")]
"""What an input's way is watched through."""

FOLDER = Path("build/fuzz")
"""Of all that fuzzing leaves; `project` in it is a bake with the default answers."""


def load(name: str) -> Any:
    """The test. This imports the code that it is about, so whoever wants to watch that code must watch by now."""
    kept = DirectoryBasedExampleDatabase(FOLDER / "broken")
    settings.register_profile("fuzz", database=kept, deadline=None)
    settings.load_profile("fuzz")
    where, _, function = name.rpartition(":")
    if not where.startswith("project:"):
        return getattr(importlib.import_module(where), function)
    project = FOLDER / "project" / SLUG
    sys.path.insert(0, str(project / "src"))
    path = project / where.partition(":")[2]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return getattr(module, function)
