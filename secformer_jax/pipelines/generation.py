"""`pipeline("text-generation", model=..., cluster=...)`: called, and answering, as Hugging Face's does.

Source: transformers 4.57, `transformers.pipelines.text_generation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.answer import Answer, Ending
from secformer_jax.inference.decoders.choice import Choice
from secformer_jax.models.decoders.tokens import ChatTokens
from secformer_jax.models.folders import resolve

TASK = "text-generation"
Written = Callable[[Sequence[int], Answer], Any]
"""(prompt, answer): lets an answer grow behind a prompt, to its end."""


class AsyncGeneration:
    """Texts that are gone on with, and messages that are answered. Make it with `async_pipeline`.

    Args:
        tokens: of the model.
        last: ids of tokens that end an answer.
        write: who computes.
    """

    def __init__(self, tokens: ChatTokens, last: Sequence[int], write: Written) -> None:
        self._tokens, self._last, self._write = tokens, last, write

    async def __call__(
        self,
        inputs: Any,
        *,
        max_new_tokens: int = 64,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        stop_strings: str | Sequence[str] | None = None,
        return_full_text: bool = True,
        seed: int | None = None,
    ) -> Any:
        """[{"generated_text": ...}] for a text, or for messages that end with the user's; a list of these for a list.

        Args:
            inputs: a text, which is gone on with behind the model's prefix; or {"role", "content"} messages by turns.
            max_new_tokens: the most tokens of an answer.
            do_sample: draw tokens by these; else the likeliest are taken.
            temperature: see `Choice`.
            top_p: likewise.
            repetition_penalty: likewise.
            stop_strings: texts before which an answer ends.
            return_full_text: with what was given before it.
            seed: of what is drawn; by default another each time.

        Raises:
            UserError: inputs of another kind, or what the model does not take.
        """
        stops = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings or ())
        choice = Choice(temperature if do_sample else 0.0, top_p, repetition_penalty)
        ending = Ending(max_new_tokens, stops)
        several = isinstance(inputs, list) and bool(inputs) and not isinstance(inputs[0], dict)
        found, texts = [], inputs if several else [inputs]
        for given, prompt in [(given, self._prompt(given)) for given in texts]:
            generator = None if seed is None else np.random.default_rng(seed)
            answer = Answer(self._tokens, self._last, prompt, choice, ending, generator)
            await self._write(prompt, answer)
            found.append([{"generated_text": _whole(given, answer.text) if return_full_text else answer.text}])
        return found if several else found[0]

    def _prompt(self, given: Any) -> list[int]:
        if isinstance(given, str) and given:
            return self._tokens.plain(given)
        if isinstance(given, list) and all(
            isinstance(each, dict) and set(each) == {"role", "content"} for each in given
        ):
            roles, contents = [each["role"] for each in given], [each["content"] for each in given]
            turns = roles == [("user", "assistant")[i % 2] for i in range(len(given))]
            if turns and len(given) % 2 and all(isinstance(content, str) for content in contents):
                return self._tokens.prompt(contents)
        raise UserError(
            'a text, or messages [{"role": "user", "content": ...}, ..] in which user and assistant speak in turn and '
            "user has the last word; the system's prompt is the published one"
        )


def _whole(given: Any, said: str) -> Any:
    return given + said if isinstance(given, str) else [*given, {"role": "assistant", "content": said}]


@contextlib.asynccontextmanager
async def on_cluster(
    model: str | os.PathLike[str], cluster: str | os.PathLike[str], client: str, tls: Path | None
) -> AsyncIterator[AsyncGeneration]:
    """Asks a cluster; every answer has a conversation of its own."""
    from secformer_jax.cluster import config as clusters
    from secformer_jax.cluster.clients.client import ClusterClient
    from secformer_jax.cluster.clients.conversation import ClusterConversation, tokens_of

    found = clusters.load(os.fspath(cluster), tls=tls, insecure_trusted_first_party=True)
    async with ClusterClient(found, client) as asking:
        served = await asking.decoder()

        async def write(prompt: Sequence[int], answer: Answer) -> None:
            async with ClusterConversation(asking, served) as conversation:
                async for _ in conversation.write(prompt, answer):
                    pass

        tokens = tokens_of(resolve(model, weights=False), served)
        yield AsyncGeneration(tokens, served.config.eos_token_ids, write)


@contextlib.asynccontextmanager
async def in_this_process(model: str | os.PathLike[str], config: str, room: int) -> AsyncIterator[AsyncGeneration]:
    """A simulation, with room for so many tokens of a prompt, padded, and its answer."""
    from secformer_jax.inference.decoders.simulated import SimulatedDecoder
    from secformer_jax.models.decoders.chat import read_tokens
    from secformer_jax.models.decoders.checkpoint import load
    from secformer_jax.models.decoders.ranges import ensure_calibration
    from secformer_jax.mpc.runtime.config import load as load_config

    loaded = load(model)
    tokens = read_tokens(loaded.path)
    ranges = ensure_calibration(loaded, tokens)
    with SimulatedDecoder(loaded, ranges, tokens.prefix, room, load_config(config)) as decoder:
        # The parties of one process compute one pass at a time.
        one = asyncio.Lock()

        async def write(prompt: Sequence[int], answer: Answer) -> None:
            async with one:
                await asyncio.to_thread(lambda: [None for _ in decoder.text().write(prompt, answer)])

        yield AsyncGeneration(tokens, loaded.config.eos_token_ids, write)
