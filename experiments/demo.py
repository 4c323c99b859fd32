"""Private sentiment of sentences, then private similarity of pairs of sentences, next to the plaintext answers.

Two servers and a dealer (SEMI2K) in simulation, all on this machine. First the model that comes with the package, which
was distilled for 2Quad, with presets secformer and fast; then all-MiniLM-L6-v2 as it is, with preset puma, and with
preset secformer and Puma's softmax. Run by `make demo`, or `make demo TEXT="..."` for a sentence of your own. Fails
if a private answer is more than 0.02 from plaintext. Ranges of MiniLM are measured on the first run and kept beside it.
"""

import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.presets import Approximations
from secformer_jax.inference.private import Answer, Plaintext, PrivateModel
from secformer_jax.models import checkpoint, folders
from secformer_jax.models.calibrate import ensure_calibration
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.ranges import load_calibration
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Encoded, Tokenizer

SENTENCES = (
    "A warm and funny film that I would happily watch again.",
    "The plot makes no sense, and two hours feel like four.",
)
PAIRS = (
    ("A cat sleeps on the sofa.", "A kitten naps on the couch."),
    ("The bank raised its interest rates.", "Interest rates went up at the bank."),
    ("A man is playing the guitar.", "The train leaves at nine tomorrow."),
)
STUDENT_CHOICES = {"secformer": presets.preset("secformer"), "fast": presets.preset("fast")}
MINILM_CHOICES = {
    "puma": presets.preset("puma"),
    "secformer --softmax puma": presets.preset("secformer", softmax="puma"),
}
SENTENCE_LENGTH, PAIR_LENGTH = 32, 16
TOLERANCE = 0.02


def main(own: Sequence[str]) -> int:
    """Run the demo; `own` sentences take the place of the first part's. Returns 1 if an answer is too far off."""
    started = time.perf_counter()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print("Private inference on SPU, protocol SEMI2K, simulated on this machine")
    worst = max(sentiment(console, own or SENTENCES), similarity(console))
    verdict = "within" if worst <= TOLERANCE else "NOT within"
    console.print(
        f"\nGreatest difference {worst:.4f}: {verdict} {TOLERANCE} of plaintext. The whole run took "
        f"{time.perf_counter() - started:.0f} s. Bytes and sends are those of one server. The first request of a "
        "preset also opens the masked weights."
    )
    return int(not worst <= TOLERANCE)


def sentiment(console: Console, sentences: Sequence[str]) -> float:
    """Classify sentences with the package's own student; returns the greatest difference of a logit."""
    model = checkpoint.load(folders.SHIPPED)
    console.print("\n[bold]Sentiment: the distilled student of this package[/bold]")
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    requests = {
        text: encode_request(model, tokenizer, text, None, SENTENCE_LENGTH, truncate=True) for text in sentences
    }
    return answered(console, model, STUDENT_CHOICES, requests)


def similarity(console: Console) -> float:
    """Compare pairs of sentences with MiniLM; returns the greatest difference of a cosine."""
    model = checkpoint.load("minilm")
    console.print("\n[bold]Similarity of two sentences: all-MiniLM-L6-v2, not distilled[/bold]")
    for approximations in MINILM_CHOICES.values():
        with console.status("measuring the model's ranges, once"):
            ensure_calibration(model, approximations, length=PAIR_LENGTH, say=console.print)
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    requests = {" / ".join(pair): encode_request(model, tokenizer, *pair, PAIR_LENGTH) for pair in PAIRS}
    return answered(console, model, MINILM_CHOICES, requests)


def answered(
    console: Console, model: Checkpoint, choices: Mapping[str, Approximations], requests: Mapping[str, Encoded]
) -> float:
    """Answer every request with every preset, and say how near plaintext each answer is."""
    # A distilled student's softmax is 2Quad, in plaintext as well.
    worst = 0.0
    for name, approximations in choices.items():
        exact = Plaintext(model, presets.families()[presets.family(approximations)])
        console.print(f"\n[bold]preset {name}[/bold]")
        ranges = load_calibration(model, approximations)
        with console.status("sharing the weights between the servers"):
            private = PrivateModel(model, approximations, "2pc_semi2k", calibration=ranges)
        with private:
            for title, request in requests.items():
                plaintext = exact(request).reshape(-1)
                with console.status(escape(title)):
                    answer = private(request)
                worst = max(worst, float(np.abs(answer.logits.reshape(-1) - plaintext).max()))
                console.print(f"  {escape(title)}")
                for line in described(model, answer, plaintext):
                    console.print(f"    {line}")
    return worst


def described(model: Checkpoint, answer: Answer, plaintext: np.ndarray) -> tuple[str, str]:
    """Two lines: the private answer beside plaintext's, and the cost."""
    total, values = answer.result.profile.total, answer.logits.reshape(-1)
    kind = "cosine" if model.head == "embedding" else "logits"
    found = f"{kind} {_numbers(values)}, plaintext {_numbers(plaintext)}, off by {np.abs(values - plaintext).max():.4f}"
    if model.head == "classification":
        found = f"{model.config.id2label[int(values.argmax())]}: {found}"
    cost = f"{answer.result.seconds:.1f} s, {total.send_bytes / 1e6:.0f} MB sent, {total.send_actions:,} sends"
    return found, f"{cost}, after {answer.compile_seconds:.1f} s of compiling" if answer.compile_seconds else cost


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"demo: {error}")
