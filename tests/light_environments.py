"""Environments with the base install alone, made from a wheel of this checkout: what a client's machine has."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    *(
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "constraints.txt",
        "constraints-client.txt",
    ),
    *("secformer_jax", "spu_configs", "weights"),
)
NO_INDEX = re.compile("connection|resolve|no matching distribution found for hatchling", re.IGNORECASE)


def newest_python() -> Path | None:
    """The newest supported Python beside this one; None where there is none."""
    for minor in (14, 13, 12):
        found = shutil.which(f"python3.{minor}")
        kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python"))
        for path in ([Path(found)] if found else []) + kept[-1:]:
            if subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
                return path
    return None


def copied(folder: Path) -> Path:
    """What a build reads, in a folder of its own: a build leaves files behind, and takes up what an older one left."""
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def wheel(folder: Path) -> Path:
    """Built from a copy."""
    return build(copied(folder / "copy"), folder)


def build(project: Path, folder: Path) -> Path:
    """The wheel of a project in a folder."""
    before = set(folder.glob("*.whl"))
    pip(sys.executable, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, project)
    [built] = set(folder.glob("*.whl")) - before
    return built


def environment(python: Path | str, built: Path, folder: Path) -> Path:
    """The Python of an environment into which a wheel has been installed as the README says, with what it needs."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    alone = folder / "bin" / "python"
    pip(alone, "install", "--quiet", "--constraint", ROOT / "constraints-client.txt", built)
    return alone


def pip(python: Path | str, *arguments: object) -> None:
    """Run it; the test is skipped where there is no index."""
    done = subprocess.run(
        [python, "-m", "pip", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip("no package index is reached")
    assert done.returncode == 0, done.stderr
