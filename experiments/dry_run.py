"""Every stage of accuracy.py on random weights of a real model's shape, so that who has the weights only waits.

    python experiments/dry_run.py --data-dir GLUE [--shape bert-base] [--task STS-B ...] [--folder DIR]

Writes a folder like that of bert-base-uncased or bert-large-uncased (BertForMaskedLM, LayerNorms' old names, the same
vocabulary), and has accuracy.py --quick fine-tune it, distil it in both stages, calibrate and score it, in plaintext
and emulated, on 32 examples. MPCFormer's sides, and those without distillation, go the same ways, and are left out
unless asked for. The scores mean nothing. The real run is then
`python experiments/accuracy.py --data-dir GLUE --model bert-base-uncased`, with that folder's path.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated

import accuracy
import jax
import numpy as np
import safetensors.numpy
import typer
from results import console, run

from secformer_jax.models import checkpoint, folders
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint

QUICKEST = ("plain", "secformer", "fast", "drop-in")
VOCABULARY = 30_522
"""Of bert-base-uncased, and of all-MiniLM-L6-v2, whose tokenizer is taken."""


def main(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="GLUE's TSV files.")],
    shape: Annotated[str, typer.Option(help=", ".join(bert.SHAPES))] = "bert-base",
    task: Annotated[list[str] | None, typer.Option(help="Some of the table's tasks.")] = None,
    side: Annotated[list[str] | None, typer.Option(help=", ".join(accuracy.SIDES))] = None,
    folder: Annotated[Path, typer.Option(help="For the model, what is trained, and the table.")] = Path("runs/dry"),
) -> None:
    """Write the model, and go through all stages."""
    if shape not in bert.SHAPES:
        raise typer.BadParameter(f"unknown shape {shape!r}: choose one of {', '.join(bert.SHAPES)}")
    started, model = time.perf_counter(), folder / f"{shape}-random"
    if not model.is_dir():
        write_model(shape, model)
    chosen = task or [accuracy.FIRST]
    accuracy.main(
        data_dir, chosen, side or list(QUICKEST), str(model), [0], folder / "runs", folder, False, False, False, True
    )
    console().print(f"{shape}, {', '.join(chosen)}: every stage went through in {time.perf_counter() - started:.0f} s.")


def write_model(shape: str, folder: Path) -> None:
    """Random weights under the names that the hub's folders have."""
    size = dataclasses.replace(bert.SHAPES[shape], vocab_size=VOCABULARY, max_position_embeddings=512)
    params = jax.tree.map(np.asarray, bert.init_params(size, "embedding", jax.random.key(0)))
    checkpoint.save(Checkpoint(size, params, "embedding", folders.resolve("minilm"), folder), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}), encoding="utf-8")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    named = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    for new, before in old.items():
        named = {name.replace(new, before): tensor for name, tensor in named.items()}
    named["cls.predictions.bias"] = np.zeros(VOCABULARY, np.float32)
    safetensors.numpy.save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    run(main)
