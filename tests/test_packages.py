"""Wheel and sdist: built from a copy, whole, and fit to be uploaded."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import light_environments
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The wheel, made from the sdist, and the sdist."""
    folder = tmp_path_factory.mktemp("packages")
    copy = light_environments.copied(folder / "copy")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.suffix: path for path in (folder / "dist").iterdir()}


def test_an_index_would_take_them(built):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.values())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    expected = {str(path.relative_to(ROOT)) for path in files(ROOT / "secformer_jax")}
    expected |= {f"secformer_jax/{path.relative_to(ROOT)}" for path in files(ROOT / "spu_configs")}
    found = {name for name in zipfile.ZipFile(built[".whl"]).namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {"secformer_jax/py.typed", "secformer_jax/spu_configs/2pc_semi2k.json"} <= found


def test_the_sdist_can_be_built_and_read(built):
    with tarfile.open(built[".gz"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt"} <= names


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_no_symlink():
    """A checkout on Windows has none."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    lines = listed.stdout.splitlines()
    assert lines and not [line for line in lines if line.startswith("120000")]
