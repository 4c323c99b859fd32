"""Servers on other processors compute the same public numbers: one that differs is garbage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("spu")
ROOT, PROCESSOR = Path(__file__).resolve().parents[2], Path("/proc/cpuinfo")
NEWER = PROCESSOR.is_file() and "avx512f" in PROCESSOR.read_text()

OLDER = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
"""As on a processor without AVX-512."""

SCRIPT = """
import hashlib
import jax, numpy as np
from secformer_jax.functions.series import Series
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime.waves import last_bits

print(last_bits())
for count in (20, 60):
    series = Series(8.0, 0.0, tuple(range(1, count + 1)), (0.1,) * count, (0.2,) * count, -1.0, 1.0, 0.0)
    rng = np.random.default_rng(0)
    with enable_x64():
        # So many public bits that a difference in the last of a float64 is one of the result.
        masks = OpenedSeries.abstract(series, (VALUES,), bits=20, mask_bits=16, public_bits=48)
        masks = jax.tree.map(lambda leaf: rng.integers(-(2**62), 2**62, leaf.shape), masks)
        opening = rng.integers(-(2**22), 2**22, VALUES)
        found = np.asarray(jax.jit(lambda opening, masks: masks.finish(opening).ring)(opening, masks))
    print(count, hashlib.sha256(found.tobytes()).hexdigest())
""".replace("VALUES", str(1 << 18))


def printed(environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not NEWER, reason="this processor has no AVX-512 to do without")
def test_public_numbers_are_those_of_an_older_processor():
    ours, theirs = printed({}), printed(OLDER)
    assert len(ours) == 3 and ours == theirs


@pytest.mark.skipif(not NEWER, reason="this processor has no fused multiply-add to do without")
def test_a_processor_that_rounds_otherwise_is_noticed():
    """One that can't add to a product without rounding it first: servers refuse to go on with it."""
    ours, theirs = printed({}), printed({"XLA_FLAGS": "--xla_cpu_max_isa=AVX"})
    assert all(own != other for own, other in zip(ours, theirs, strict=True))
