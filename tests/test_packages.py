"""Wheel and sdist: built from a copy, whole, and fit to be uploaded."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import light_environments
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The wheel, made from the sdist, the sdist, and the wheel of the weights."""
    folder = tmp_path_factory.mktemp("packages")
    copy = light_environments.copied(folder / "copy")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = light_environments.build(copy / "weights", folder / "dist")
    made = {path.suffix: path for path in (folder / "dist").iterdir() if path != weights}
    return {**made, "weights": weights}


def test_an_index_would_take_them(built):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.values())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == len(built), done.stdout + done.stderr


WEIGHTS = "secformer_jax/data/sst2_student/model.safetensors"


def test_the_wheels_have_every_file_of_the_package_once_and_nothing_else(built):
    expected = {str(path.relative_to(ROOT)) for path in files(ROOT / "secformer_jax")}
    expected |= {f"secformer_jax/{path.relative_to(ROOT)}" for path in files(ROOT / "spu_configs")}
    found = names(built[".whl"])
    assert found == expected - {WEIGHTS} and names(built["weights"]) == {WEIGHTS}
    assert {"secformer_jax/py.typed", "secformer_jax/spu_configs/2pc_semi2k.json"} <= found


def test_the_weights_are_of_this_version(built):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    weights = tomllib.loads((ROOT / "weights" / "pyproject.toml").read_text())["project"]
    assert weights["version"] == project["version"]
    assert weights["dependencies"] == [f"secformer_jax=={project['version']}"]
    assert project["optional-dependencies"]["weights"] == [f"secformer_jax_weights=={project['version']}"]


def test_the_sdist_can_be_built_and_read(built):
    with tarfile.open(built[".gz"]) as sdist:
        found = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt"} <= found
    assert {"constraints-client.txt", "weights/pyproject.toml", WEIGHTS} <= found


def names(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_no_symlink():
    """A checkout on Windows has none."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    lines = listed.stdout.splitlines()
    assert lines and not [line for line in lines if line.startswith("120000")]
