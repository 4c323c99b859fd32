"""Options of `secformer finetune` and `secformer distill`."""

from __future__ import annotations

from typing import Annotated

import typer

from secformer_jax.cli.commands import distill as distill_command
from secformer_jax.cli.commands import finetune as finetune_command
from secformer_jax.cli.commands.common import Choice
from secformer_jax.cli.options import (
    BatchSize,
    DataDir,
    Dropout,
    Dtype,
    Evaluations,
    Gelu,
    Json,
    LayerNorm,
    Model,
    Out,
    Seed,
    Softmax,
    TrainLength,
    TrainLimit,
)
from secformer_jax.cli.report import Reporter
from secformer_jax.errors import UserError
from secformer_jax.training.distill import Weights
from secformer_jax.training.recipe import Recipe

TrainTask = Annotated[str, typer.Option("--task", help="CoLA, MRPC, RTE, STS-B, SST-2 or QNLI.")]


def finetune(
    model: Model,
    task: TrainTask,
    out: Out,
    data_dir: DataDir = None,
    preset: Annotated[str, typer.Option("--preset", help="Train with these functions; exact.")] = "exact",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training split.")] = 3,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="The greatest one.")] = 3e-5,
    batch_size: BatchSize = 32,
    warmup: Annotated[float, typer.Option("--warmup", help="Part of all steps.")] = 0.1,
    seed: Seed = 0,
    evaluations: Evaluations = 1,
    dtype: Dtype = "float32",
    dropout: Dropout = True,
    max_length: TrainLength = 128,
    limit: TrainLimit = None,
    json: Json = False,
) -> None:
    """Train a model on a GLUE task: a teacher, or with another preset a student without distillation."""
    reporter = Reporter(json)
    recipe = Recipe(
        epochs, learning_rate, batch_size, warmup, seed=seed, evaluations=evaluations, dtype=dtype, dropout=dropout
    )
    entries = finetune_command.run(
        reporter,
        model=model,
        name=task,
        data_dir=data_dir,
        out=out,
        choice=Choice(preset, gelu, softmax, layer_norm),
        recipe=recipe,
        max_length=max_length,
        limit=limit,
    )
    reporter.results(entries)


def distill(
    teacher: Annotated[str, typer.Option("--teacher", help="The fine-tuned model's folder.")],
    task: TrainTask,
    out: Out,
    data_dir: DataDir = None,
    preset: Annotated[str, typer.Option("--preset", help="The student's functions.")] = "secformer",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    like: Annotated[
        tuple[str, str] | None,
        typer.Option("--like", help="Start from what changed in this student, of another task, and its teacher."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="How many of the teacher's, or which, as 1,3,5; all by default.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option("--vocabulary", help="Keep only so many word pieces, the most used in training.")
    ] = None,
    positions: Annotated[int | None, typer.Option("--positions", help="Keep only so many positions.")] = None,
    states_epochs: Annotated[
        float | None, typer.Option("--states-epochs", help="Of stage 1; the paper's for the task. 0 leaves it out.")
    ] = None,
    states_learning_rate: Annotated[float, typer.Option("--states-learning-rate", help="Of stage 1.")] = 5e-5,
    logits_epochs: Annotated[float, typer.Option("--logits-epochs", help="Of stage 2.")] = 5,
    logits_learning_rate: Annotated[float, typer.Option("--logits-learning-rate", help="Of stage 2.")] = 1e-5,
    scores_weight: Annotated[
        float,
        typer.Option("--scores-weight", help="Weight of attention scores beside hidden states in stage 1."),
    ] = 1.0,
    range_penalty: Annotated[
        float, typer.Option("--range-penalty", help="Weight of a penalty on values outside narrow ranges.")
    ] = 0.0,
    label_weight: Annotated[
        float, typer.Option("--label-weight", help="Weight of the labels beside the teacher's logits in stage 2.")
    ] = 0.0,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    evaluations: Evaluations = 1,
    dtype: Dtype = "float32",
    dropout: Dropout = False,
    max_length: TrainLength = 128,
    limit: TrainLimit = None,
    json: Json = False,
) -> None:
    """Teach a student with other functions what a teacher does: hidden states and scores, then logits."""
    if min(scores_weight, range_penalty, label_weight, states_epochs or 0) < 0:
        raise UserError("--scores-weight, --range-penalty, --label-weight and --states-epochs: 0 or more was expected")
    reporter = Reporter(json)
    entries = distill_command.run(
        reporter,
        teacher=teacher,
        name=task,
        data_dir=data_dir,
        out=out,
        choice=Choice(preset, gelu, softmax, layer_norm),
        shape=distill_command.Shape(layers, vocabulary, positions),
        states_epochs=states_epochs,
        states=Recipe(1, states_learning_rate, batch_size, 0.0, "constant", seed=seed, dtype=dtype, dropout=dropout),
        logits=Recipe(
            logits_epochs,
            logits_learning_rate,
            batch_size,
            seed=seed,
            evaluations=evaluations,
            dtype=dtype,
            dropout=dropout,
        ),
        weights=Weights(scores_weight, label_weight, range_penalty),
        like=like,
        max_length=max_length,
        limit=limit,
    )
    reporter.results(entries)
