"""The student that ships with the package: sentiment of a sentence (SST-2), distilled from all-MiniLM-L6-v2 for 2Quad.

    python experiments/train_student.py --data-dir GLUE --runs RUNS [--fresh] [--quick]

Each step goes on where it was stopped: a teacher is fine-tuned; a student with fewer layers, word pieces and positions
is distilled from it, with a penalty on wide ranges; the student is written to the package's data as float16, its ranges
measured on the rounded weights; and it is scored on the whole dev split, in plaintext and in emulation, and on a
sample under MPC. Figures go to results/student.json and the model card is written from them. Some two hours on two
cores.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from results import FOLDER, Check, Entry, Results, console, run, table

from secformer_jax.cli.commands import distill as distill_command
from secformer_jax.cli.commands import evaluate as evaluate_command
from secformer_jax.cli.commands import finetune as finetune_command
from secformer_jax.cli.commands.common import PRESET_FILE, Choice, Protocol
from secformer_jax.cli.commands.training import calibrate, read_report, read_splits
from secformer_jax.cli.options import DataDir
from secformer_jax.cli.report import Reporter
from secformer_jax.evaluation import tasks
from secformer_jax.models import checkpoint, folders
from secformer_jax.training.distill import STATES_RECIPE, Weights
from secformer_jax.training.recipe import Recipe

TASK = "SST-2"
CHOICE = Choice("fast")
SHAPE = distill_command.Shape(layers="3", vocabulary=10_000, positions=128)
TEACHER = Recipe(epochs=1, learning_rate=5e-5, warmup=0.06, evaluations=4, dropout=False)
STATES = dataclasses.replace(STATES_RECIPE, epochs=0.4, learning_rate=1e-4)
LOGITS = Recipe(epochs=1, learning_rate=5e-5, warmup=0.05, evaluations=4, dropout=False)
WEIGHTS = Weights(labels=0.5, ranges=0.01)
TRAIN_LENGTH = 64
LENGTH = 128
SIDES = (("plaintext", "fast"), ("emulated", "fast"), ("emulated", "secformer"))
FILES = ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "calibration.json", PRESET_FILE)
SAMPLE = 100
GREATEST_MEGABYTES = 20.0
GREATEST_DIFFERENCE = 0.02
LEAST_ACCURACY = 0.86


def main(
    data_dir: DataDir,
    runs: Annotated[Path, typer.Option("--runs", help="Where teachers and students are kept.")] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the student goes; the package's own data by default.")
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", help="Where the results file goes.")] = FOLDER,
    fresh: Annotated[bool, typer.Option("--fresh", help="Score again; what is trained stays.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few hundred examples, to see that it runs.")] = False,
) -> None:
    """Train, write and score the student."""
    reporter, limit = Reporter(False), 320 if quick else None
    assert data_dir is not None
    if quick and out is None:
        raise typer.BadParameter("--quick makes no model to ship: pass --out")
    out = out or folders.shipped_folder()
    teacher, student = (runs / f"{kind}-{TASK}{'-quick' if quick else ''}" for kind in ("teacher", "shipped"))
    if not teacher.is_dir():
        finetune_command.run(
            reporter,
            model="minilm",
            name=TASK,
            data_dir=data_dir,
            out=teacher,
            choice=Choice("exact"),
            recipe=TEACHER,
            max_length=TRAIN_LENGTH,
            limit=limit,
        )
    if not student.is_dir():
        fresh = True
        distill_command.run(
            reporter,
            teacher=str(teacher),
            name=TASK,
            data_dir=data_dir,
            out=student,
            choice=CHOICE,
            shape=SHAPE,
            states_epochs=STATES.epochs,
            states=STATES,
            logits=LOGITS,
            weights=WEIGHTS,
            max_length=TRAIN_LENGTH,
            limit=limit,
        )
    ship(reporter, student, out, data_dir)
    measure(student, out, data_dir, Results("student", folder, fresh=fresh), 32 if quick else None)


def ship(reporter: Reporter, student: Path, out: Path, data_dir: Path) -> None:
    """Write the student as float16, with the ranges of the rounded weights."""
    staged = student.with_name(f"{student.name}.staged")
    checkpoint.save(checkpoint.load(student), staged, np.float16, replace=True)
    CHOICE.save(staged)
    rounded = checkpoint.load(staged)
    calibrate(reporter, rounded, CHOICE, read_splits(rounded, tasks.find(TASK), data_dir, LENGTH, None).train)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(staged / name, out / name)
    shutil.rmtree(staged)


def measure(student: Path, out: Path, data_dir: Path, results: Results, limit: int | None) -> None:
    """Score it on the dev split, compare emulation with MPC on a sample, and write the figures and the card."""

    def score(runtime: str, preset: str, count: int | None, batch_size: int) -> Entry:
        *_, entry = evaluate_command.run(
            Reporter(True),
            model=str(out),
            names=[TASK],
            data_dir=data_dir,
            runtime=runtime,
            choice=Choice(preset),
            protocol=Protocol(),
            calibration=None,
            limit=count,
            batch_size=batch_size,
            max_length=None,
            truncate=False,
        )
        return entry

    cells = {
        (runtime, preset): results.cell(f"{runtime}/{preset}", functools.partial(score, runtime, preset, limit, 32))
        for runtime, preset in SIDES
    }
    sample = min(SAMPLE, limit or SAMPLE)
    simulated = results.cell("simulated/fast", lambda: score("emulated,simulated", "fast", sample, 20))
    nearness = simulated["agreement"]["emulated"]
    megabytes = sum((out / name).stat().st_size for name in FILES) / 1e6
    checks = [
        Check("MB in the package", megabytes, GREATEST_MEGABYTES),
        Check("SST-2 dev accuracy, emulated", cells["emulated", "fast"]["metric"], LEAST_ACCURACY, at_least=True),
        Check("equal predictions, emulated and simulated", nearness["same_predictions"], sample, at_least=True),
        Check("greatest difference of a logit between them", nearness["max_logit_difference"], GREATEST_DIFFERENCE),
    ]
    trained: dict[str, Any] = read_report(student)
    (out / "README.md").write_text(card(trained, cells, megabytes), encoding="utf-8")
    rows = [(runtime, preset, f"{100 * cell['metric']:.1f}") for (runtime, preset), cell in cells.items()]
    shown = table("Accuracy on SST-2 dev", ("runtime", "preset", "accuracy"), rows, 2)
    results.publish(console(), [shown], checks, student=trained, megabytes=megabytes)


def card(trained: Entry, cells: dict[tuple[str, str], Entry], megabytes: float) -> str:
    """The model card."""
    states, logits = trained["states_recipe"], trained["recipe"]
    accuracy = {side: f"{100 * cell['metric']:.1f}" for side, cell in cells.items()}
    return CARD.format(
        layers=len(trained["layers"]),
        followed=", ".join(map(str, trained["layers"])),
        vocabulary=f"{trained['vocabulary']:,}",
        megabytes=f"{megabytes:.1f}",
        teacher=f"{100 * trained['teacher_score']:.1f}",
        states_epochs=states["epochs"],
        states_rate=states["learning_rate"],
        epochs=logits["epochs"],
        rate=logits["learning_rate"],
        batch=logits["batch_size"],
        seed=logits["seed"],
        labels=trained["label_weight"],
        penalty=trained["range_penalty"],
        plaintext=accuracy["plaintext", "fast"],
        fast=accuracy["emulated", "fast"],
        secformer=accuracy["emulated", "secformer"],
        count=cells["emulated", "fast"]["count"],
    )


CARD = """\
# sst2-student

Sentiment of one English sentence, negative or positive: a small BERT with 2Quad in place of softmax, made to be served
under MPC. It is what `secformer infer --text "..."` answers with.

- {layers} layers of hidden size 384, 12 heads, {vocabulary} word pieces (lower case), 128 positions;
  {megabytes} MB in float16.
- Functions: exact GeLU, 2Quad (c = 5), LayerNorm: the presets `fast` and `secformer` compute these. With other
  softmaxes it answers otherwise than it was trained to.

## Where it comes from

- Teacher: all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0; 6 layers), fine-tuned on SST-2.
- Data: SST-2 as GLUE distributes it (Socher et al., EMNLP 2013, "Recursive Deep Models for Semantic Compositionality
  Over a Sentiment Treebank"; Wang et al., ICLR 2019, "GLUE"): 67,349 phrases of film reviews. None of it is in this
  folder but the choice of word pieces.
- Student: the teacher's layers {followed} (counted from 0), its word pieces that SST-2 uses most, and all single Latin
  characters.
- Stage 1: hidden states and attention scores, {states_epochs} epochs, learning rate {states_rate}. Stage 2: the
  teacher's logits, and the labels with weight {labels}, {epochs} epochs, learning rate {rate}. Batches of {batch}, seed
  {seed}, and a penalty of weight {penalty} on values outside narrow ranges.
  `python experiments/train_student.py --data-dir GLUE` makes it again.
- Calibration: 1,024 training sentences at 128 tokens.

## Accuracy

SST-2 dev, {count} sentences, from results/student.json:

| | accuracy |
| --- | --- |
| teacher, with the student's word pieces | {teacher} |
| plaintext | {plaintext} |
| emulated fixed point, preset fast | {fast} |
| emulated fixed point, preset secformer | {secformer} |

## Limits

- Film reviews in English; one sentence, at most 128 tokens. Other texts, irony and mixed opinions are often misjudged,
  and there is no neutral answer. It carries whatever bias the reviews and MiniLM's training texts have.
- Letters outside Latin script are unknown to it.
- Calibrated on training sentences: `secformer evaluate --check-ranges` says whether other texts leave its ranges.

## Licence

Apache-2.0, as all-MiniLM-L6-v2 and this package. SST-2's texts are their authors' and are not redistributed.
"""


if __name__ == "__main__":
    run(main)
