"""Private answers against plaintext's, text by text, for any model and head: differences, labels, cosines and costs.

    python experiments/check_private.py --model DIR --texts experiments/rampart_sentences.txt --name rampart
    python experiments/check_private.py --model minilm --head embedding --texts FILE --name vectors

A line of the file is a text; two with a tab between them are a pair. Plaintext runs exact functions. Costs are those of
the steady state: each padded length is asked once before. Writes results/private_NAME.json and .md, and fails where a
logit differs by more than --tolerance, where the label of a token or text is another one, or where the cosine of a
vector with plaintext's is below 0.99999.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import results
import typer

from secformer_jax.cli.commands.common import read_lines
from secformer_jax.functions import presets
from secformer_jax.inference.private import PrivateModel
from secformer_jax.models import checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.request import encode_request, request_head
from secformer_jax.models.text import Encoded, Tokenizer

LEAST_COSINE = 0.99999
Entry = dict[str, Any]


def main(
    model: Annotated[str, typer.Option(help="As for secformer infer.")],
    texts: Annotated[Path, typer.Option(help="A file of texts, one a line.")],
    name: Annotated[str, typer.Option(help="Of the result files.")],
    head: Annotated[str | None, typer.Option(help="Another head than the model's own.")] = None,
    preset: Annotated[str, typer.Option(help="The functions.")] = "drop-in",
    config: Annotated[str, typer.Option(help="The protocol.")] = "2pc_semi2k",
    max_length: Annotated[int | None, typer.Option(help="Public padded length; the least that fits.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of a logit.")] = 0.05,
) -> None:
    """Compare, print, and write the result files."""
    loaded = checkpoint.load(model)
    head = head or request_head(loaded)
    tokenizer = Tokenizer(loaded.tokenizer_dir, loaded.config)
    requests: list[Encoded] = []
    for line in read_lines(texts):
        text, _, pair = line.partition("\t")
        requests.append(encode_request(loaded, tokenizer, text, pair or None, max_length, head=head))
    lines = answered(loaded, presets.preset(preset), config, head, requests)
    rows, checks = (
        by_length(lines),
        [results.Check("greatest difference", max(x["difference"] for x in lines), tolerance)],
    )
    labels = sum(line["labels"] for line in lines)
    if labels:
        checks.append(results.Check(f"labels other than plaintext's, of {labels}", sum(x["other"] for x in lines), 0))
    if head == "embedding":
        cosine = min(line["cosine"] for line in lines)
        checks.append(results.Check("least cosine with plaintext's", cosine, LEAST_COSINE, at_least=True))
    found = results.Results(f"private_{name}", fresh=True)
    about = {key: results.provenance(results.command_line())[key] for key in ("command", "commit", "date")}
    found.cells = {f"text {i}": {**line, **about} for i, line in enumerate(lines)}
    columns = "tokens, padded", "texts", "seconds", "MB sent", "sends"
    title = f"{Path(model).name}, {head}, {preset}, {config}"
    found.publish(results.console(), [results.table(title, columns, rows)], checks)
    raise typer.Exit(int(not all(check.holds for check in checks)))


def answered(
    model: checkpoint.Checkpoint, chosen: presets.Approximations, config: str, head: str, requests: list[Encoded]
) -> list[Entry]:
    """Every request's answer against plaintext's, and its cost."""
    exact, lines = Plaintext(model, presets.preset("exact"), head=head), []
    with PrivateModel(model, chosen, config, head=head) as private:
        warm: set[int] = set()
        for encoded in requests:
            length = encoded.input_ids.shape[1]
            if length not in warm:
                private(encoded)
                warm.add(length)
            answer = private(encoded)
            cost = answer.result.profile.total
            entry = {"length": length, "seconds": answer.result.seconds, "send_bytes": cost.send_bytes}
            entry |= {"send_actions": cost.send_actions}
            lines.append(entry | compared(head, answer.logits, exact(encoded), int(encoded.attention_mask.sum())))
    return lines


def compared(head: str, private: np.ndarray, plain: np.ndarray, real: int) -> Entry:
    """One answer against plaintext's: the greatest difference at real tokens, labels, and for a vector its cosine."""
    ours, theirs = private[0], plain[0]
    if head in ("tokens", "question"):
        ours, theirs = ours[:real], theirs[:real]
    found: Entry = {"difference": float(np.abs(ours - theirs).max()), "labels": 0, "other": 0}
    if head in ("tokens", "classification"):
        same = np.atleast_1d(ours.argmax(axis=-1) == theirs.argmax(axis=-1))
        found |= {"labels": int(same.size), "other": int((~same).sum())}
    if head == "embedding":
        found["cosine"] = float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
    return found


def by_length(lines: list[Entry]) -> list[list[str]]:
    """Mean costs for each padded length."""
    rows = []
    for length in sorted({line["length"] for line in lines}):
        own = [line for line in lines if line["length"] == length]
        seconds, sent, sends = (np.mean([x[key] for x in own]) for key in ("seconds", "send_bytes", "send_actions"))
        rows.append([str(length), str(len(own)), f"{seconds:.2f}", f"{sent / 1e6:.1f}", f"{sends:.0f}"])
    return rows


if __name__ == "__main__":
    results.run(main)
