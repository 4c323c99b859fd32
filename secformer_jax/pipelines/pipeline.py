"""`pipeline("text-classification", model=..., cluster=...)`: called, and answering, as Hugging Face's pipelines do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secformer_jax.errors import UserError
from secformer_jax.inference.texts import Answering, Limits, answer
from secformer_jax.models.folders import SHIPPED, resolve
from secformer_jax.models.text import Tokenizer
from secformer_jax.pipelines.forms import TASKS, Options
from secformer_jax.pipelines.generation import TASK as GENERATION
from secformer_jax.pipelines.generation import AsyncGeneration, in_this_process, on_cluster

if TYPE_CHECKING:
    from secformer_jax.functions.presets import Approximations


class AsyncPipeline:
    """A task, done by somebody; `await pipe("a text")`. Make it with `async_pipeline`.

    Args:
        task: one of `forms.TASKS`.
        answering: who answers.
        tokenizer: of the model.
        limits: how texts are cut.

    Raises:
        UserError: no such task, or the model does another.
    """

    def __init__(self, task: str, answering: Answering, tokenizer: Tokenizer, limits: Limits) -> None:
        self._task = TASKS[known(task)]
        if answering.head not in self._task.heads:
            raise UserError(
                f"the model answers with {answering.head}, and {task} is done by {_names(self._task.heads)}"
            )
        self._answering, self._tokenizer, self._limits = answering, tokenizer, limits

    async def __call__(
        self,
        inputs: Any = None,
        *,
        top_k: int | bool | None = False,
        aggregation_strategy: str = "none",
        ignore_labels: tuple[str, ...] = ("O",),
        **keywords: Any,
    ) -> Any:
        """What the pipeline of this task gives; see `forms.Options`, and for the inputs `forms.Task.requests`.

        Raises:
            UserError: inputs of another kind, or a text that the model does not take: nothing is answered then.
        """
        options = Options(top_k, aggregation_strategy, ignore_labels)
        requests, alone = self._task.requests(inputs, keywords)
        entries = await answer(self._answering, self._tokenizer, requests, self._limits)
        for number, entry in enumerate(entries, 1):
            if "error" in entry:
                raise UserError(entry["error"] if alone else f"text {number}: {entry['error']}")
        found = [self._task.form(self._answering.config, self._answering.head, each, options) for each in entries]
        if not alone:
            return found
        # As transformers does: a list of one around the one label of a text that is no dict.
        return found if isinstance(inputs, str) and isinstance(found[0], dict) else found[0]


class Pipeline:
    """The same for code that does not wait: `pipe("a text")`. Make it with `pipeline`, and close it."""

    def __init__(self, entering: contextlib.AbstractAsyncContextManager[AsyncPipeline | AsyncGeneration]) -> None:
        self._runner, self._entering = asyncio.Runner(), entering
        try:
            self._pipe = self._runner.run(entering.__aenter__())
        except BaseException:
            self._runner.close()
            raise

    def __call__(self, inputs: Any = None, **options: Any) -> Any:
        """See `AsyncPipeline`, and for text-generation `AsyncGeneration`."""
        return self._runner.run(self._pipe(inputs, **options))

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the connections, or the computing parties."""
        self._runner.run(self._entering.__aexit__(None, None, None))
        self._runner.close()


@contextlib.asynccontextmanager
async def async_pipeline(
    task: str,
    model: str | os.PathLike[str] = SHIPPED,
    *,
    cluster: str | os.PathLike[str] | None = None,
    client: str = "client",
    tls: Path | None = None,
    preset: str | Approximations = "",
    config: str = "2pc_semi2k",
    max_length: int | None = None,
    truncation: bool = False,
    room: int = 256,
) -> AsyncIterator[AsyncPipeline | AsyncGeneration]:
    """A pipeline for one task.

    Args:
        task: one of `forms.TASKS`, or "text-generation".
        model: the model's folder or name; with a cluster only its tokenizer is read.
        cluster: the cluster file of those who compute, with the model that is published there. Without one, this
            process computes: a simulation.
        client: who asks, as the cluster file names it.
        tls: the folder of certificates, instead of the cluster file's.
        preset: the functions of a simulation; by default those that the model was trained for, or else drop-in.
        config: the protocol of a simulation.
        max_length: the padded length; None: the least that fits, for each text.
        truncation: cut longer texts instead of refusing them.
        room: of a simulation that generates text: the most tokens of a prompt, padded, and its answer.

    Raises:
        UserError: no such task, model or cluster, or the model does another task.
    """
    if task == GENERATION:
        if preset or max_length is not None or truncation:
            raise UserError("text-generation has functions of its own, and cuts nothing: leave out other options")
        entering = in_this_process(model, config, room) if cluster is None else on_cluster(model, cluster, client, tls)
        async with entering as generation:
            yield generation
        return
    heads, limits = TASKS[known(task)].heads, Limits(max_length, truncation)
    if cluster is None:
        from secformer_jax.inference.simulated import simulated

        with simulated(model, preset, config, heads) as (answering, tokenizer):
            yield AsyncPipeline(task, answering, tokenizer, limits)
        return
    from secformer_jax.cluster import config as clusters
    from secformer_jax.cluster.clients.answering import ClusterAnswering
    from secformer_jax.cluster.clients.client import ClusterClient

    found = clusters.load(os.fspath(cluster), tls=tls, insecure_trusted_first_party=True)
    async with ClusterClient(found, client) as asking:
        served = await asking.deployment()
        tokenizer = Tokenizer(resolve(model, weights=False), served.config)
        yield AsyncPipeline(task, ClusterAnswering(asking, served), tokenizer, limits)


def pipeline(task: str, model: str | os.PathLike[str] = SHIPPED, **options: Any) -> Pipeline:
    """A pipeline for one task; see `async_pipeline` for the options.

    Raises:
        UserError: as there.
    """
    return Pipeline(async_pipeline(task, model, **options))


def known(task: str) -> str:
    """The name of a task that there is.

    Raises:
        UserError: there is none of this name.
    """
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}: choose one of {_names((*TASKS, GENERATION))}")
    return task


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names)
