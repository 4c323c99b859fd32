"""The process that computes: SPU's runtimes, their link, and this party's shares. Its supervisor tells it what to do.

    python -m secformer_jax.cluster.party.worker DESCRIPTOR LIFELINE

It may end at any moment (SPU can end it when a peer dies); nothing but the sealed shares on disk outlives it. Every
command is answered once, by what was asked for or by an error in one line; commands of one lane in their order, those
of different lanes at the same time.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from secformer_jax.cluster import store
from secformer_jax.cluster.config import TlsFiles
from secformer_jax.cluster.memory import keep_memory_private
from secformer_jax.cluster.party import identity
from secformer_jax.cluster.party.aging import Sealed
from secformer_jax.cluster.party.computing import Computing, Looking, resident_bytes
from secformer_jax.cluster.party.programs import Programs
from secformer_jax.cluster.published import read_description
from secformer_jax.cluster.requirements import MASKS, OPENED, WEIGHTS
from secformer_jax.cluster.wire.frames import Channel
from secformer_jax.cluster.wire.message import Message, shares_of
from secformer_jax.mpc.audit import PARTIES, OwnMasks
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.coins import Coins
from secformer_jax.mpc.runtime.link import LinkTls, connect
from secformer_jax.mpc.runtime.party import Party
from secformer_jax.mpc.runtime.shares import HELD
from secformer_jax.mpc.runtime.zero_sharing import ZeroSharing


class Lane(NamedTuple):
    """A runtime, and the thread that uses it."""

    computing: Computing
    thread: ThreadPoolExecutor


class Worker:
    """Answers the supervisor's commands.

    Args:
        channel: to the supervisor.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel, self._sending = channel, threading.Lock()
        self._lanes: list[Lane] = []

    def take(self, message: Message) -> None:
        """Begin to carry out a command."""
        if message.kind == "start":
            self._answer(self._start, message)
        elif not self._lanes:
            self._send(Message("error", {"text": "a command came before the link to the other parties"}), 0)
        else:
            lane = self._lanes[message.number("lane")]
            lane.thread.submit(self._answer, lane.computing.commands[message.kind], message)

    def _answer(self, command: Callable[[Message], Message | None], message: Message) -> None:
        try:
            reply = command(message)
        except Exception as error:  # whatever went wrong, the supervisor decides; SPU raises bare RuntimeErrors
            text = " ".join(str(error).partition("Stacktrace")[0].split())[:300] or type(error).__name__
            reply = Message("error", {"text": text})
        if reply is not None:
            self._send(reply, message.fields.get("lane", 0))

    def _send(self, reply: Message, lane: int) -> None:
        with self._sending:
            self._channel.send(Message(reply.kind, {**reply.fields, "lane": lane}, reply.chunks))

    def _start(self, message: Message) -> Message:
        """Meet the other parties and put the published weights into the runtimes."""
        f = message.fields
        files = TlsFiles(*(Path(f["identity"][key]) for key in ("ca", "certificate", "key")))
        tls = LinkTls(*(Path(f["link_tls"][key]) for key in ("certificate", "key", "peers")))
        given = mpc_config.load(f["cluster_file"])
        config = mpc_config.MpcConfig(given.name, given.addresses, dict(f["runtime"]), given.compiler)
        more = [str(network) for network in f["link_sources"]]
        link = connect(f["session"], f["addresses"], f["name"], tls, Path.cwd(), more_sources=more)
        identity.check(link, f["certificates"], f["session"], identity.Signer(files))
        # Each lane has a link of its own inside this one, which the same parties have just proved to hold.
        parties = [Party(config, link.spawn(), tag=f"#{lane}") for lane in range(message.number("lanes"))]
        if f["description"] is not None:
            deployment = read_description(f["description"])
            sealed = Sealed(Path(f["weights"]), store.sealing_key(Path(f["seal"])), deployment.name, link)
            held = HELD[config.protocol](link.rank)
            load(parties[0], sealed.renewed(f["session"], held, link.world_size, Coins(link.spawn())))
            for other in parties[1:]:
                other.hold_what(parties[0])
            programs = Programs(config, deployment)
            chance = f["audits"] if link.world_size == PARTIES else 0.0
            for party in parties:
                looking = Looking(Coins(link.spawn()), chance, functools.partial(own_masks, sealed))
                computing = Computing(party, programs, ZeroSharing(link.spawn()), looking)
                self._lanes.append(Lane(computing, ThreadPoolExecutor(1)))
        self._parties = parties
        return Message("ready", {"resident_bytes": resident_bytes()})


def load(party: Party, records: Iterator[Message]) -> None:
    """Weights from the owner, masks from the dealer; where a weight has a mask, their difference is opened."""
    masked = set()
    for record in records:
        for path, share in shares_of(record).items():
            collection, _, name = path.partition("/")
            if collection == OPENED:
                masked.add(name)
                party.put(_variable(f"{WEIGHTS}/{name}"), share)
            elif collection == MASKS:
                masked.remove(name)
                party.put("mask", share)
                party.open_difference(_variable(f"{WEIGHTS}/{name}"), "mask", _variable(f"{OPENED}/{name}"))
                party.free(["mask"])
            else:
                party.put(_variable(path), share)
    if masked:
        raise RuntimeError("the dealer's masks of the weights are missing: publish again")


def own_masks(sealed: Sealed) -> OwnMasks:
    """This party's shares of the weights' masks."""
    named = (pair for record in sealed.records() for pair in shares_of(record).items())
    prefix = f"{MASKS}/"
    return OwnMasks({path.removeprefix(prefix): own.rings()[0] for path, own in named if path.startswith(prefix)})


def _variable(path: str) -> str:
    """The name of a published leaf's variable (`program.weight_input`) from its path on the wire."""
    return "weights" + "".join(f"[{key!r}]" for key in path.split("/"))


def main(descriptor: int, lifeline: int) -> None:
    """Answer commands until the supervisor is gone."""
    keep_memory_private()

    def end_with_supervisor() -> None:
        os.read(lifeline, 1)
        os._exit(0)

    threading.Thread(target=end_with_supervisor, daemon=True).start()
    channel = Channel(socket.socket(fileno=descriptor))
    worker = Worker(channel)
    while True:
        try:
            worker.take(channel.receive())
        except EOFError:
            os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
