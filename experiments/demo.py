"""Three pairs of sentences compared by all-MiniLM-L6-v2 under MPC, next to the plaintext answer.

Two servers and a dealer (SEMI2K) in simulation, all on this machine; preset puma, and preset secformer with Puma's
softmax (2Quad needs a model that was distilled with it). Run by `make demo`. Fails if a private cosine is more than
0.02 from plaintext. Ranges of the model are measured on the first run and kept beside it.
"""

import sys
import time

from rich.console import Console

from secformer_jax import calibration, checkpoint, presets
from secformer_jax.checkpoint import Checkpoint
from secformer_jax.commands.calibrate import encode_lines
from secformer_jax.errors import UserError
from secformer_jax.inference import Answer, Plaintext, PrivateBert, calibrate_model, encode_request, load_calibration
from secformer_jax.plaintext import calibration_sentences
from secformer_jax.text import Tokenizer

PAIRS = (
    ("A cat sleeps on the sofa.", "A kitten naps on the couch."),
    ("The bank raised its interest rates.", "Interest rates went up at the bank."),
    ("A man is playing the guitar.", "The train leaves at nine tomorrow."),
)
CHOICES = {
    "puma": presets.preset("puma"),
    "secformer --softmax puma": presets.preset("secformer", softmax="puma"),
}
MAX_LENGTH = 16
TOLERANCE = 0.02


def main() -> int:
    """Run the demo; returns 1 if a private answer is too far from plaintext."""
    started = time.perf_counter()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    model = checkpoint.load("minilm")
    console.print("Private sentence similarity: all-MiniLM-L6-v2 on SPU, protocol SEMI2K, simulated on this machine")
    for approximations in CHOICES.values():
        ensure_calibration(console, model, approximations)
    tokenizer = Tokenizer(model.tokenizer_dir, model.config.vocab_size)
    requests = [encode_request(model, tokenizer, *pair, MAX_LENGTH) for pair in PAIRS]
    exact = Plaintext(model, presets.preset("exact"))
    expected = [float(exact(request)[0]) for request in requests]

    worst = 0.0
    for name, approximations in CHOICES.items():
        console.print(f"\n[bold]preset {name}[/bold]")
        ranges = load_calibration(model, approximations)
        with console.status("sharing the weights between the servers"):
            private = PrivateBert(model, approximations, "2pc_semi2k", calibration=ranges)
        with private:
            for pair, request, plaintext in zip(PAIRS, requests, expected, strict=True):
                with console.status(" / ".join(pair)):
                    answer = private(request)
                worst = max(worst, abs(float(answer.logits[0]) - plaintext))
                console.print(f"  {' / '.join(pair)}")
                console.print(f"    {described(answer, plaintext)}")
    verdict = "within" if worst <= TOLERANCE else "NOT within"
    console.print(
        f"\nGreatest difference {worst:.4f}: {verdict} {TOLERANCE} of plaintext. The whole run took "
        f"{time.perf_counter() - started:.0f} s. Bytes and sends are those of one server. The first request of a "
        "preset also opens the masked weights."
    )
    return int(not worst <= TOLERANCE)


def described(answer: Answer, plaintext: float) -> str:
    """One line: the private answer, the plaintext one, and the cost."""
    total, value = answer.result.profile.total, float(answer.logits[0])
    line = (
        f"cosine {value:.4f} private, {plaintext:.4f} plaintext, difference {abs(value - plaintext):.4f}; "
        f"{answer.result.seconds:.1f} s, {total.send_bytes / 1e6:.0f} MB sent, {total.send_actions:,} sends"
    )
    return f"{line} (and {answer.compile_seconds:.1f} s to compile)" if answer.compile_seconds else line


def ensure_calibration(console: Console, model: Checkpoint, approximations: presets.Approximations) -> None:
    """Measure the ranges that these functions need, unless they are there."""
    try:
        load_calibration(model, approximations)
    except UserError:
        sentences = encode_lines(model, calibration_sentences(), 128)
        with console.status("measuring the model's ranges, once"):
            measured = calibrate_model(model, sentences, [presets.family(approximations)])
        path = calibration.save(measured, model.path)
        console.print(f"ranges measured on {len(sentences.input_ids)} sentences and kept in {path}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"demo: {error}")
