"""SHA-256 of the compiled programs of every preset and protocol: whether a change of the code changes what runs.

    python experiments/digests.py                       # print them
    python experiments/digests.py --out FILE            # and write them
    python experiments/digests.py --check FILE          # fail where one differs

The models are a tiny BERT, Llama and GPT-2 with fixed ranges, so that nothing depends on a machine or on random
weights. A digest is over the code of every stage, its part of the model, its phase, and which variables it shares with
others; names of variables are left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer

from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.cluster.party.programs import Programs
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import fitted
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration, Range
from secformer_jax.inference.serving import function, serving_for, variables
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.decoders import read_config
from secformer_jax.models.decoders.calibrate import FAMILY, OUTPUTS
from secformer_jax.models.decoders.chat import ChatFormat
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.program import Program, request_inputs, weight_input
from secformer_jax.openings.decoder.plan import logits_width, table_width

CONFIGS = ("1pc_ref2k", "2pc_semi2k", "2pc_semi2k_dealer", "3pc_aby3", "2pc_cheetah")
HEADS = ("classification", "embedding")
SHAPE = (2, 16)
TINY = dataclasses.replace(bert.SHAPES["tiny"], num_hidden_layers=1)


DECODERS = {
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 6},
        **{"num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 64, "rms_norm_eps": 1e-5},
        **{"hidden_act": "silu", "rope_theta": 10_000.0, "tie_word_embeddings": True, "eos_token_id": 0},
    },
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **{"vocab_size": 97, "n_embd": 48, "n_layer": 1, "n_head": 4, "n_positions": 64, "n_inner": None},
        **{"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "eos_token_id": 0},
    },
}
PREFIX, ROOM, NAME = (0, 1, 2), 24, "0" * 32


def ranges(config: bert.Architecture, family: str) -> Calibration:
    """Ranges as a trained model has them."""
    norm, gelu = {"variance": Range(0.5, 8.0)}, {"input": Range(-6.0, 5.0)}
    scores = {"score": Range(-3.0, 6.0), "centred_score": Range(-5.0, 7.0), "two_quad_mean": Range(15.0, 60.0)}
    places = {"embeddings.layer_norm": norm}
    for i in range(config.num_hidden_layers):
        places |= {f"layer.{i}.attention.layer_norm": norm, f"layer.{i}.output.layer_norm": norm}
        places |= {f"layer.{i}.gelu": gelu, f"layer.{i}.softmax": scores}
        places |= {f"layer.{i}.{name}": {"output": Range(-5.0, 5.0)} for name in ("query", "key", "value")}
    return Calibration("", family, 1, 128, places)


def digest(program: Program) -> str:
    """SHA-256 of a program up to the names of its variables."""
    sha = hashlib.sha256()
    names: dict[str, int] = {}
    for stage in program.stages:
        for group in (stage.inputs, stage.outputs, stage.frees):
            sha.update(repr([names.setdefault(name, len(names)) for name in group]).encode())
        sha.update(f"{stage.part} {stage.phase}".encode())
        sha.update(stage.code)
    return sha.hexdigest()


def digests() -> dict[str, str]:
    """By protocol, preset and head."""
    found = {}
    for config_name in CONFIGS:
        config = mpc_config.load(config_name)
        for preset in presets.PRESETS:
            for head in HEADS:
                found[f"{config_name} {preset} {head}"] = digest(compiled(config, preset, head))
    for name in DECODERS:
        for new in (1, 16):
            found[f"2pc_semi2k_dealer {name}, {new} new tokens"] = digest(decoder_program(name, new))
    return found


def decoder_program(name: str, new: int) -> Program:
    """The program of a pass over so many new tokens."""
    config = read_config(DECODERS[name])
    norm, output = {"mean_square": Range(0.3, 9.0), "value": Range(-9.0, 9.0)}, {"output": Range(-5.0, 5.0)}
    places = {"norm": norm, "head": output}
    for i in range(config.num_hidden_layers):
        places |= {f"layer.{i}.{each}": norm for each in ("attention_norm", "feed_forward_norm")}
        places |= {f"layer.{i}.{each}": output for each in OUTPUTS}
        places[f"layer.{i}.softmax"] = {"centred_score": Range(-6.0, 5.0)}
    found = Calibration("", FAMILY, 1, ROOM, places)
    widths = table_width(config, found), logits_width(found)
    described = DecoderDeployment(config, found, {}, ChatFormat("", "", "", ""), PREFIX, ROOM, *widths, NAME)
    programs = Programs(mpc_config.load("2pc_semi2k_dealer"), fitted(described))
    return programs.get(RequestShape(1, new, NAME, 0, new)).program


def compiled(config: mpc_config.MpcConfig, preset: str, head: str) -> Program:
    """The program of one preset."""
    approximations = presets.preset(preset)
    model = Checkpoint(TINY, {}, head, tokenizer_dir=Path(), path=Path())
    calibration = ranges(TINY, presets.family(approximations))
    serving = serving_for(model, approximations, calibration, config.fraction_bits, "client")
    module = serving.model(SHAPE[1])
    zeros = np.zeros(SHAPE, np.int32)
    inputs = serving.inputs.arrays(Encoded(zeros, zeros, np.ones(SHAPE, np.float32)))
    weights = variables(module, inputs)
    material = weights.pop("dealer", {})
    leaves = jax.tree_util.tree_flatten_with_path(weights)[0]
    inputs_of_program = [weight_input(path, public=serving.is_public, keep=True) for path, _ in leaves]
    inputs_of_program += request_inputs(material, inputs)
    return compile_program(
        function(module), (weights, material, *inputs), inputs_of_program, config, part_of=bert.part_of
    )


def main(
    out: Annotated[Path | None, typer.Option(help="Write them to this JSON file.")] = None,
    check: Annotated[Path | None, typer.Option(help="Compare them with those of this file.")] = None,
) -> None:
    """Print, and write or compare."""
    found = digests()
    for name, value in found.items():
        print(value, name)
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if check is not None:
        known = json.loads(check.read_text(encoding="utf-8"))
        differing = [name for name in known | found if known.get(name) != found.get(name)]
        print(f"{len(found) - len(differing)} of {len(found)} programs are those of {check}", *differing, sep="\n  ")
        raise typer.Exit(int(bool(differing)))


if __name__ == "__main__":
    typer.run(main)
