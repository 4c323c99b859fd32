"""Servers on unlike machines build one program from a description, whatever their own fits would end with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import decoders as cases
import numpy as np
import pytest
from cluster_processes import Tiny

from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.cluster.requirements import describe_decoder
from secformer_jax.models.decoders.calibrate import calibrate
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load

ROOT = Path(__file__).resolve().parents[2]
NEWER = Path("/proc/cpuinfo").is_file() and "avx512f" in Path("/proc/cpuinfo").read_text()

UNLIKE = {
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
"""As on a machine of one core without AVX-512."""

SCRIPT = """
import json, sys
from secformer_jax.cluster.party.programs import Programs
from secformer_jax.cluster.published import read_description
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import checked, serving
from secformer_jax.functions.fitting import fit_reciprocal
from secformer_jax.mpc.runtime import config

described = checked(read_description(json.load(open(sys.argv[1]))))
chats, served = described.head == "generation", serving(described, 18)
shape = RequestShape(1, 1, "0" * 32, 0, 1) if chats else RequestShape(2, 16)
print(Programs(config.load("2pc_semi2k_dealer"), described).get(shape).digest)
print(served.plan if chats else served.model(16).plan)
print(fit_reciprocal(0.01, 0.9, 2.0**-13))
"""


def decoder(folder: Path) -> DecoderDeployment:
    cases.reference("llama", folder, vocab_size=cases.TOKENS, num_hidden_layers=1, max_position_embeddings=128)
    model, tokens = load(folder), read_tokens(cases.write_tokenizer(folder))
    texts = np.random.default_rng(0).integers(2, cases.TOKENS, (4, 16)).tolist()
    return describe_decoder(model, calibrate(model, tokens.prefix, texts), tokens, 60)


@pytest.mark.skipif(not NEWER, reason="this processor has no AVX-512 to do without")
@pytest.mark.parametrize("name", ["fast", "drop-in", "llama"])
def test_one_program_from_one_description(name, tmp_path):
    path, model = tmp_path / "description.json", tmp_path / "model"
    model.mkdir()
    path.write_text(json.dumps((decoder(model) if name == "llama" else Tiny(name).description).to_json()))
    *ours, fit = printed(path, tmp_path / "here", {})
    *theirs, other = printed(path, tmp_path / "there", UNLIKE)
    assert fit != other, "these machines are alike"
    assert ours == theirs


def printed(path: Path, cache: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=ROOT,
        env={**os.environ, **environment, "SECFORMER_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
