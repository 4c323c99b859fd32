"""One of the runs that can be in flight: what the parties' runtimes of one number have compiled and prepared."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Container
from typing import Any

from secformer_jax.cluster.party.node import RefusedError
from secformer_jax.cluster.request_shape import RequestShape

log = logging.getLogger(__name__)


class CheatedError(RuntimeError):
    """The dealer does not follow the protocol: nothing more is computed with what it deals."""


class Lane:
    """Has all parties do the same in their runtimes of this lane, one command after the other.

    A piece of the dealer's material has a number, which serves one run, whatever becomes of it. One is there at a time.
    At some of them the parties only look.

    Args:
        number: of this lane.
        call: (command, fields): has all parties carry out a command of `Node`.
        over: conversations that have ended: nothing is prepared for them any more.
    """

    def __init__(
        self,
        number: int,
        call: Callable[[str, dict[str, Any]], Awaitable[list[dict[str, Any]]]],
        over: Container[str] = (),
    ) -> None:
        self._number, self._call, self._over = number, call, over
        self._needs_material: dict[RequestShape, bool] = {}
        self._prepared: RequestShape | None = None
        self._turn = asyncio.Lock()

    def work_before(self, shape: RequestShape) -> int:
        """How much has to be done before a run: 0 nothing, 1 what is under way, 2 its material, 3 its program too."""
        if shape == self._prepared and not self._turn.locked():
            return 0
        return 1 if self._turn.locked() else 3 - (shape.size in self._needs_material)

    def has(self, shape: RequestShape) -> bool:
        """Whether a size is compiled."""
        return shape.size in self._needs_material

    async def forget(self, shape: RequestShape) -> None:
        """Give back what a size takes."""
        async with self._turn:
            if self._prepared is not None and self._prepared.size == shape:
                await self._drop()
            if self._needs_material.pop(shape, None) is not None:
                await self._command("forget", shape, {})

    async def end(self, conversation: str) -> None:
        """Give back what is prepared for a conversation's next pass."""
        async with self._turn:
            if self._prepared is not None and self._prepared.conversation == conversation:
                await self._drop()

    async def _drop(self) -> None:
        assert self._prepared is not None
        other, self._prepared = self._prepared, None
        await self._command("drop", other, {})

    async def compile(self, shape: RequestShape) -> None:
        """Have the program of a size."""
        async with self._turn:
            await self._compile(shape)

    async def rehearse(self, shape: RequestShape) -> None:
        """Compute once for nobody: much is compiled when it is used first."""
        async with self._turn:
            await self._prepare(shape)
            self._prepared = None
            await self._command("rehearse", shape, {})

    async def prepare(self, shape: RequestShape) -> None:
        """Have a program, a piece of material in the workers, and what needs no input computed."""
        async with self._turn:
            await self._prepare(shape)

    async def run(self, requests: list[str], shape: RequestShape) -> None:
        """Compute on claimed inputs; the material is used up."""
        async with self._turn:
            await self._prepare(shape)
            self._prepared = None
            await self._command("run", shape, {"requests": requests})

    async def _compile(self, shape: RequestShape) -> None:
        if shape.size not in self._needs_material:
            started = time.perf_counter()
            answers = await self._command("compile", shape, {})
            self._needs_material[shape.size] = answers[0]["needs_material"]
            log.info("compiled", extra={"seconds": round(time.perf_counter() - started, 3)})

    async def _prepare(self, shape: RequestShape) -> None:
        if shape.conversation in self._over:
            raise RefusedError("this conversation is over: begin a new one")
        await self._compile(shape)
        if self._needs_material[shape.size] and shape != self._prepared:
            if self._prepared is not None:
                await self._drop()
            started, piece = time.perf_counter(), {"piece": secrets.token_hex(16)}
            while (await self._command("prepare", shape, piece))[0]["audit"]:
                if not all(answer["holds"] for answer in await self._command("audit", shape, piece)):
                    raise CheatedError(
                        f"the dealer has dealt a wrong piece of material ({piece['piece']}): it is stopped"
                    )
                log.info("audited", extra={"request": piece["piece"]})
                piece = {"piece": secrets.token_hex(16)}
            self._prepared = shape
            log.info("material", extra={"seconds": round(time.perf_counter() - started, 3)})

    async def _command(self, kind: str, shape: RequestShape, fields: dict[str, Any]) -> list[dict[str, Any]]:
        return await self._call(kind, {**shape.fields(), "lane": self._number, **fields})
