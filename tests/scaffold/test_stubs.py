"""The generated code is what the contract says."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    """`make proto` would change nothing."""
    protos = [str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto")]
    plugins = str(Path(sys.executable).parent)
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
         f"--mypy_out=quiet:{tmp_path}", f"--mypy_grpc_out=quiet:{tmp_path}", *protos],
        cwd=ROOT, env={"PATH": f"{plugins}:/usr/bin:/bin"}, check=True, timeout=60,
    )  # fmt: skip
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert made
    for path in made:
        assert (ROOT / "src" / path).read_text() == (tmp_path / path).read_text(), f"{path} is stale: make proto"


def test_the_contract_keeps_to_bufs_rules() -> None:
    """Names, packages and files as the field writes them."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf
    done = subprocess.run([buf, "lint"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
