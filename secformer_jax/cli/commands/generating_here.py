"""`secformer generate` and `chat` without a cluster: a language model on this machine, and what its answers cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from secformer_jax.cli.commands.common import Protocol
from secformer_jax.cli.commands.generating import Asked, next_ids, prompt_ids
from secformer_jax.cli.costs import MEGABYTE, peak_memory_bytes, restart_peak_memory
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.inference.decoders.answer import Answer
from secformer_jax.inference.decoders.prompts import prompt_passes
from secformer_jax.inference.decoders.simulated import SimulatedDecoder, SimulatedText
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder
from secformer_jax.models.decoders.ranges import ensure_calibration
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Result


class Here:
    """A language model on this machine.

    Args:
        reporter: prints.
        model: its name.
        system: the system's prompt; None for the template's own.
        config: protocol and parties.
        calibration: the file of its ranges.
        asked: how it answers.

    Raises:
        UserError: a configuration, a model or ranges that can't be used.
    """

    def __init__(
        self, reporter: Reporter, model: str, system: str | None, config: str, calibration: str | None, asked: Asked
    ) -> None:
        Protocol(config).check()
        self._reporter, self._asked, self._config = reporter, asked, mpc_config.load(config)
        self._model = load(model)
        self._tokens = read_tokens(self._model.path, system)
        with reporter.progress("measuring ranges") as progress:
            self._ranges = ensure_calibration(
                self._model, self._tokens, calibration, say=reporter.say, progress=progress
            )

    def answer(self, prompts: Sequence[str]) -> None:
        """Answer each prompt by itself, and report."""
        ids = [prompt_ids(self._tokens, prompt) for prompt in prompts]
        # Room for the longest, and no more: every row of a cache is computed with. A pass is shorter than the room.
        ending = self._asked.ending
        passes = ending.most + -ending.most % ending.block
        room = max(sum(prompt_passes(len(each))) for each in ids) + max(passes - 1, 1)
        entries = []
        with self._started(room) as decoder:
            for prompt, each in zip(prompts, ids, strict=True):
                self._reporter.say(prompt)
                _, entry = self._answered(decoder.text(), each)
                entry = {"prompt": prompt, **entry, "config": self._config.name}
                if self._asked.compare:
                    entry["plaintext_answer"] = self._plaintext(each, room)
                    self._reporter.say(f"  plaintext: {entry['plaintext_answer']}")
                self._costs(entry)
                entries.append(entry)
        self._reporter.results(entries)

    def talk(self, room: int, questions: Iterable[str]) -> None:
        """A conversation: each question with all that was said before."""
        entries: list[Entry] = []
        answer: Answer | None = None
        with self._started(room) as decoder:
            text = decoder.text()
            try:
                for question in questions:
                    ids = next_ids(self._tokens, answer, question)
                    answer, entry = self._answered(text, ids)
                    entries.append({"prompt": question, **entry, "config": self._config.name})
                    self._costs(entry)
            finally:
                # What was said stays, whatever ended it.
                self._reporter.results(entries)

    def _started(self, room: int) -> SimulatedDecoder:
        restart_peak_memory()
        with self._reporter.progress("sharing the weights"):
            return SimulatedDecoder(self._model, self._ranges, self._tokens.prefix, room, self._config)

    def _new_answer(self, prompt: Sequence[int]) -> Answer:
        return self._asked.answer(self._tokens, self._model.config.eos_token_ids, prompt)

    def _answered(self, text: SimulatedText, prompt: Sequence[int]) -> tuple[Answer, Entry]:
        answer, costs, used = self._new_answer(prompt), list[Result](), text.used
        self._reporter.part("  ")
        for said, cost in text.write(prompt, answer):
            self._reporter.part(said)
            costs.append(cost)
        self._reporter.say("")
        steps = answer.passes - 1
        reading = len(costs) - steps
        passes = {"prompt_pass": _cost(costs[:reading], sum)}
        if steps:
            passes["token_pass"] = _cost(costs[reading:], statistics.median)
        entry: Entry = {"answer": answer.text, "tokens": answer.ids, "finish": answer.finish, "passes": len(costs)}
        entry |= {"prompt_tokens": len(prompt), "padded": text.used - used - steps}
        return answer, entry | passes | {"peak_memory_bytes": peak_memory_bytes()}

    def _plaintext(self, prompt: Sequence[int], room: int) -> str:
        decoder, answer = PlaintextDecoder(self._model, len(self._tokens.prefix) + room), self._new_answer(prompt)
        new: Sequence[int] = [*self._tokens.prefix, *prompt]
        while answer.finish is None:
            answer.add(decoder.extend(np.asarray(new))[0][-1])
            new = answer.ids[-1:]
        return answer.text

    def _costs(self, entry: Entry) -> None:
        rows = [
            (
                title,
                *(f"{entry[name][key]:.2f}" for key in ("seconds", "dealing_seconds", "preparing_seconds")),
                *(f"{entry[name][key] / MEGABYTE:,.2f}" for key in ("send_bytes", "dealt_bytes")),
                f"{entry[name]['send_actions']:,.0f}",
            )
            for name, title in (("prompt_pass", f"a prompt of {entry['padded']}"), ("token_pass", "a token (median)"))
            if name in entry
        ]
        columns = ("a pass over", "online s", "dealer s", "servers ahead s", "MB sent", "MB dealt", "sends")
        title = f"Cost of {len(entry['tokens'])} tokens, {self._config.protocol}; the first pass of a size compiles"
        self._reporter.table(title, columns, rows)


def _cost(passes: Sequence[Result], of_all: Callable[[Iterable[float]], float]) -> Entry:
    """Each figure of all passes as one."""
    return {
        "seconds": of_all(each.seconds for each in passes),
        "dealing_seconds": of_all(each.dealing_seconds for each in passes),
        "preparing_seconds": of_all(each.preparing_seconds for each in passes),
        "send_bytes": of_all(each.profile.total.send_bytes for each in passes),
        "dealt_bytes": of_all(max(each.dealt_bytes) for each in passes),
        "send_actions": of_all(each.profile.total.send_actions for each in passes),
    }
