"""A worker process under its supervisor: started, spoken to, and missed when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections import defaultdict
from pathlib import Path

from secformer_jax.cluster.wire import frames
from secformer_jax.cluster.wire.message import Bytes, Message

_KILL_SECONDS = 10


class WorkerError(RuntimeError):
    """The worker ended, or answered with an error."""


class WorkerProcess:
    """One worker; it serves one session and is never used again after an error.

    Args:
        folder: its working directory, emptied first; nobody else may enter it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._sending = asyncio.Lock()
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self.ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process and not self.ended.is_set() else None

    async def spawn(self) -> None:
        """Start the process; it waits for its first command."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, mode=0o700)
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        # SPU writes what it meets to standard error; it stays in the worker's own folder.
        with theirs, (self._folder / "worker.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "secformer_jax.cluster.party.worker",
                str(theirs.fileno()),
                str(lifeline),
                cwd=self._folder,
                pass_fds=(theirs.fileno(), lifeline),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # It is always ended by force: what it leaves goes with its folder.
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                    "TMPDIR": str(self._folder),
                },
            )
        os.close(lifeline)
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._watcher, self._listener = asyncio.create_task(self._watch()), asyncio.create_task(self._listen())

    async def _watch(self) -> None:
        assert self._process is not None
        await self._process.wait()
        self.ended.set()

    async def _listen(self) -> None:
        """Give each answer to the call that waits for it; a lane has one at a time."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                answer = await frames.read(self._reader)
                waiting = self._answers.pop(answer.number("lane"), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        why = WorkerError(await self._why())
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(why)

    async def send(self, parts: list[Bytes]) -> None:
        """Send a message that has no answer of its own."""
        async with self._sending:
            try:
                await frames.write(self._writer, parts)
            except ConnectionError:
                raise WorkerError(await self._why()) from None

    async def call(self, parts: list[Bytes], lane: int = 0) -> Message:
        """Send a packed command to a lane and wait for its answer.

        Raises:
            WorkerError: the process ended, or answered with an error.
        """
        async with self._turns[lane]:
            self._answers[lane] = asyncio.get_running_loop().create_future()
            await self.send(parts)
            if self._listener.done():
                raise WorkerError(await self._why())
            answer = await self._answers[lane]
        if answer.kind == "error":
            raise WorkerError(answer.text("text"))
        return answer

    async def _why(self) -> str:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ended.wait(), _KILL_SECONDS)
        code = self._process.returncode if self._process else None
        if code is not None and code < 0:
            return f"the computing process was ended by {signal.Signals(-code).name}"
        return f"the computing process ended with status {code}"

    async def kill(self) -> None:
        """End the process at once and forget its folder."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.ended.wait()
        self._writer.close()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)
