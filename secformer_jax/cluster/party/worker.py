"""The process that computes: SPU's runtime, its link, and this party's shares. Its supervisor tells it what to do.

    python -m secformer_jax.cluster.party.worker DESCRIPTOR LIFELINE

It may end at any moment (SPU can end it when a peer dies); nothing but the sealed shares on disk outlives it. Every
command is answered once, by what was asked for or by an error in one line.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from secformer_jax.cluster import store
from secformer_jax.cluster.config import TlsFiles
from secformer_jax.cluster.deployment import Deployment, RequestShape
from secformer_jax.cluster.party import identity
from secformer_jax.cluster.requirements import MASKS, OPENED, WEIGHTS, part_of, requirements, serving
from secformer_jax.cluster.wire.frames import Channel
from secformer_jax.cluster.wire.message import Message, shares_of, with_shares
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.link import LinkTls, connect
from secformer_jax.mpc.runtime.party import Party
from secformer_jax.mpc.runtime.profile import Profile
from secformer_jax.mpc.runtime.program import OFFLINE, ONLINE, SETUP, Program, request_inputs, weight_input
from secformer_jax.mpc.runtime.shares import Share


@dataclass
class Compiled:
    """A shape's program under variable names of its own, and what has to be put in for a request."""

    program: Program
    specs: dict[str, jax.ShapeDtypeStruct]
    names: dict[str, str]
    bits: dict[str, int]


class Worker:
    """Answers the supervisor's commands."""

    def __init__(self) -> None:
        self._connected: Party | None = None
        self._programs: dict[RequestShape, Compiled] = {}
        self._pending: dict[RequestShape, set[str]] = {}
        self.commands: dict[str, Callable[[Message], Message | None]] = {
            "start": self.start,
            "compile": self.compile,
            "material": self.material,
            "prepare": self.prepare,
            "request": self.request,
        }

    @property
    def party(self) -> Party:
        """SPU's runtime.

        Raises:
            RuntimeError: there is no link yet.
        """
        if self._connected is None:
            raise RuntimeError("a command came before the link to the other parties")
        return self._connected

    def start(self, message: Message) -> Message:
        """Meet the other parties and put the published weights into the runtime."""
        f = message.fields
        files = TlsFiles(*(Path(f["identity"][key]) for key in ("ca", "certificate", "key")))
        tls = LinkTls(*(Path(f["link_tls"][key]) for key in ("certificate", "key", "peers")))
        config = mpc_config.load(f["cluster_file"])
        self._config = mpc_config.MpcConfig(config.name, config.addresses, dict(f["runtime"]), config.compiler)
        names = list(f["addresses"])
        link = connect(f["session"], f["addresses"], f["name"], tls, Path.cwd())
        identity.check(link, names, f["session"], identity.Signer(files))
        self._connected = Party(self._config, link)
        if f["description"] is not None:
            self._deployment = Deployment.from_json(f["description"])
            self._serving = serving(self._deployment, self._config.fraction_bits)
            self._load(store.read(Path(f["weights"]), store.sealing_key(Path(f["seal"])), self._deployment.name))
        return Message("ready", {"resident_bytes": _resident_bytes()})

    def _load(self, records: Iterator[Message]) -> None:
        """Weights from the owner, masks from the dealer; where a weight has a mask, their difference is opened."""
        party, masked = self.party, set()
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

    def compile(self, message: Message) -> Message:
        """Compile for a shape, compare the program with the other parties', and run what needs no request."""
        shape, party = _shape(message), self.party
        self._deployment.check(shape)
        if shape not in self._programs:
            needed = requirements(self._serving, shape)
            leaves, _ = jax.tree_util.tree_flatten_with_path(needed.weights)
            keep = self._deployment.keep_weights
            variables = [weight_input(path, public=self._serving.is_public, keep=keep) for path, _ in leaves]
            variables += request_inputs(needed.material, needed.inputs)
            program = compile_program(
                needed.compute,
                (needed.weights, needed.material, *needed.inputs),
                variables,
                self._config,
                part_of=part_of,
            )
            party.agree(program.digest())
            own = program.renamed({name for name in program.variables() if not name.startswith("weights")})
            party.run(own, SETUP)
            request = [*jax.tree.leaves(needed.material), *needed.inputs]
            specs = {v.name: spec for v, spec in zip(variables[len(leaves) :], request, strict=True)}
            bits = {f"input{i}": width for i, width in enumerate(needed.input_bits)}
            names = dict(zip(program.input_names, own.input_names, strict=True))
            self._programs[shape] = Compiled(own, specs, names, bits)
        compiled = self._programs[shape]
        inputs = {
            name: [str(spec.dtype), list(spec.shape), compiled.bits[name]]
            for name, spec in compiled.specs.items()
            if name in compiled.bits
        }
        return Message("compiled", {"inputs": inputs, "needs_material": len(inputs) < len(compiled.specs)})

    def material(self, message: Message) -> Message | None:
        """Take some of the dealer's material for the next request of a shape."""
        shape = _shape(message)
        self._put(shape, shares_of(message), "material")
        return None

    def prepare(self, message: Message) -> Message:
        """Run what needs material and no input."""
        shape = _shape(message)
        compiled = self._programs[shape]
        missing = {n for n in compiled.specs if n.startswith("material")} - self._pending.pop(shape, set())
        if missing & self._read(compiled):
            raise ValueError("the dealer's material is incomplete")
        return Message("prepared", _cost(self.party.run(compiled.program, OFFLINE)))

    def request(self, message: Message) -> Message:
        """Compute; the answer holds this party's component of the result."""
        shape, party, started = _shape(message), self.party, time.perf_counter()
        compiled = self._programs[shape]
        self._put(shape, shares_of(message), "input")
        missing = {n for n in compiled.specs if n.startswith("input")} - self._pending.pop(shape, set())
        if missing & self._read(compiled):
            raise ValueError("the input is incomplete")
        cost = _cost(party.run(compiled.program, ONLINE))
        results = {}
        for index, name in enumerate(compiled.program.output_names):
            dtype, ring = party.get(name)
            results[f"output{index}"] = Share(dtype, ring.shape, (ring,))
        party.free(set(compiled.program.output_names))
        cost |= {"party_seconds": time.perf_counter() - started, "resident_bytes": _resident_bytes()}
        return with_shares("result", cost, results)

    def _read(self, compiled: Compiled) -> set[str]:
        """The variables that the program reads, by their names on the wire."""
        used = compiled.program.variables() | set(compiled.program.output_names)
        return {name for name, own in compiled.names.items() if own in used}

    def _put(self, shape: RequestShape, shares: dict[str, Share], kind: str) -> None:
        compiled = self._programs[shape]
        used = self._read(compiled)
        for name, share in shares.items():
            spec = compiled.specs.get(name) if name.startswith(kind) else None
            fits = spec is not None and (str(spec.dtype), spec.shape) == (share.dtype, share.shape)
            if not fits or share.bits != compiled.bits.get(name, share.bits):
                raise ValueError(f"{name} {share.dtype} {share.shape} is nothing that this program takes")
            if name in used:
                self.party.put(compiled.names[name], share)
            self._pending.setdefault(shape, set()).add(name)


def _variable(path: str) -> str:
    """The name of a published leaf's variable (`program.weight_input`) from its path on the wire."""
    return "weights" + "".join(f"[{key!r}]" for key in path.split("/"))


def _shape(message: Message) -> RequestShape:
    return RequestShape(message.number("rows"), message.number("length"))


def _cost(profile: Profile) -> dict[str, float]:
    total = profile.total
    return {"seconds": total.seconds, "send_bytes": total.send_bytes, "send_actions": total.send_actions}


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(descriptor: int, lifeline: int) -> None:
    """Answer commands until the supervisor is gone."""

    def end_with_supervisor() -> None:
        os.read(lifeline, 1)
        os._exit(0)

    threading.Thread(target=end_with_supervisor, daemon=True).start()
    channel, worker = Channel(socket.socket(fileno=descriptor)), Worker()
    while True:
        try:
            message = channel.receive()
        except EOFError:
            os._exit(0)
        try:
            reply = worker.commands[message.kind](message)
        except Exception as error:  # whatever went wrong, the supervisor decides; SPU raises bare RuntimeErrors
            text = " ".join(str(error).partition("Stacktrace")[0].split())[:300] or type(error).__name__
            reply = Message("error", {"text": text})
        if reply is not None:
            channel.send(reply)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
