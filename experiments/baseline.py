"""Puma from outside: Hugging Face's own FlaxBert encoder on stock SPU, beside this package's preset, in one run.

    python experiments/baseline.py [--layers 2] [--tokens 128] [--fresh] [--quick]

Nothing of this package computes on the first side: transformers' FlaxBertLayerCollection, whose softmax and GeLU are
replaced as in SPU's own Puma example (with the exponential that Puma's paper has, EXP_TAYLOR of 5 squarings), runs in
`spu.utils.simulation`; weights and hidden states are secret. Of Flax's two forms of LayerNorm it has the one without a
comparison (use_fast_variance=False): the other guards a variance against being negative. The other side is the preset
puma without resident weights, its layers alone. Bytes and sends of one server have to agree within 5%. Writes
results/baseline.json and .md.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import efficiency
import jax
import jax.numpy as jnp
import numpy as np
import spu.utils.simulation as simulation
import typer
from efficiency import NOT_RESIDENT, Case
from efficiency_lines import layer
from flax import linen as nn
from results import FOLDER, Check, Entry, Results, console, run, table
from transformers import BertConfig
from transformers.models.bert import modeling_flax_bert as hugging_face

from secformer_jax.models import transformer as bert
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.profile import LogReader, parse

CONFIG, AGREES = "2pc_semi2k", 0.05
QUANTITIES = {"send_bytes": "bytes", "send_actions": "sends"}
CUBIC = (-0.011034134030615728, -0.11807612951181953, -0.42226581151983866, -0.5054031199708174)
SEXTIC = (0.0018067462606141187, 0.0, -0.037688200365904236, 0.0, 0.3603292692789629, 0.5, 0.008526321541038084)
"""Puma's coefficients (arXiv 2307.12533), the highest power first."""


def main(
    layers: Annotated[int, typer.Option(help="of BERT-base's")] = 2,
    tokens: Annotated[int, typer.Option(help="of one text")] = 128,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="a tiny model: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure both sides, print and write."""
    case = Case("tiny", 2, 16, CONFIG, real_ranges=False) if quick else Case("bert-base", layers, tokens, CONFIG)
    results, out = Results("baseline", folder, fresh=fresh), console()
    theirs = results.cell(case.key("FlaxBert on stock SPU"), functools.partial(outside, case))
    measured = results.cell(case.key(NOT_RESIDENT), functools.partial(efficiency.measure, case, NOT_RESIDENT))
    ours = {quantity: layer(measured, quantity) * case.layers for quantity in ("seconds", *QUANTITIES)}
    rows = [
        [side, f"{e['seconds']:.2f}", f"{e['send_bytes'] / 1e6:,.1f}", f"{e['send_actions']:,.0f}", error]
        for side, e, error in (
            ("FlaxBert with Puma's functions, stock SPU", theirs, f"{theirs['max_abs_error']:.4f}"),
            ("preset puma, weights not resident", ours, ""),
        )
    ]
    columns = ("side", "seconds", "MB sent", "sends", "error of hidden states")
    checks = [
        Check(f"{words} of FlaxBert on stock SPU, off from the preset's by", abs(theirs[q] / ours[q] - 1), AGREES)
        for q, words in QUANTITIES.items()
    ]
    results.publish(out, [table(f"layers alone: {case.key('').rstrip(', ')}", columns, rows)], checks)
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def outside(case: Case) -> Entry:
    """Costs of Hugging Face's encoder, the second time it runs, and its error against itself in plaintext."""
    shape = bert.SHAPES[case.shape]
    config = BertConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=case.layers,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
    )
    encoder = hugging_face.FlaxBertLayerCollection(config)
    hidden = jax.random.normal(jax.random.key(0), (case.batch, case.length, config.hidden_size))
    layer_norm = functools.partial(nn.LayerNorm, use_fast_variance=False)
    with (
        mock.patch.dict(hugging_face.ACT2FN, gelu=gelu),
        mock.patch("jax.nn.softmax", softmax),
        mock.patch.object(hugging_face.nn, "LayerNorm", layer_norm),
    ):
        params = jax.tree.map(np.asarray, encoder.init(jax.random.key(1), hidden, None, None))

        def function(params: Any, hidden: jax.Array) -> jax.Array:
            outputs: Any = encoder.apply(params, hidden, None, None)
            return outputs.last_hidden_state

        expected = np.asarray(function(params, hidden))
        chosen = mpc_config.load(CONFIG)
        runtime = chosen.runtime_config(profile=True)
        runtime.fxp_exp_mode, runtime.fxp_exp_iters = simulation.libspu.RuntimeConfig.EXP_TAYLOR, 5
        simulator = simulation.Simulator(chosen.world_size, runtime)
        private = simulation.sim_jax(simulator, function, copts=chosen.compiler_options())
        for _ in range(2):
            log = LogReader()
            found = private(params, np.asarray(hidden))
            profile = parse(log.lines())
    total = profile.total
    return {
        "seconds": total.seconds,
        "send_bytes": total.send_bytes,
        "send_actions": total.send_actions,
        "max_abs_error": float(np.abs(np.asarray(found) - expected).max()),
    }


def softmax(x: jax.Array, axis: int = -1, **_: object) -> jax.Array:
    """Puma's: the runtime's exponential, 0 below -14."""
    x = x - jnp.max(x, axis, keepdims=True)
    weights = jnp.exp(x) * (x > -14)
    return weights / jnp.sum(weights, axis, keepdims=True)


def gelu(x: jax.Array) -> jax.Array:
    """Puma's piecewise polynomials."""
    under_zero, under_cubic, over = x < -4.0, x < -1.95, x > 3.0
    inner, left = under_cubic ^ over ^ True, under_zero ^ under_cubic
    x2 = jnp.square(x)
    x3 = x * x2
    powers = {1: x, 2: x2, 3: x3, 4: jnp.square(x2), 6: jnp.square(x3)}

    def polynomial(coefficients: tuple[float, ...]) -> jax.Array:
        *higher, constant = coefficients
        terms = [c * powers[n] for n, c in zip(range(len(higher), 0, -1), higher, strict=True) if c]
        return functools.reduce(jnp.add, terms) + constant

    return over * x + left * polynomial(CUBIC) + inner * polynomial(SEXTIC)


if __name__ == "__main__":
    run(main)
