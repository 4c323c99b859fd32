"""What one lane of a worker does: programs in a runtime, material and inputs put in, results taken out."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from secformer_jax.cluster.deployment import Deployment, RequestShape
from secformer_jax.cluster.memory import give_back
from secformer_jax.cluster.requirements import part_of, requirements, serving
from secformer_jax.cluster.wire.message import Message, shares_of, with_shares
from secformer_jax.inference.revealing import revealing
from secformer_jax.mpc.audit import audit, commitment
from secformer_jax.mpc.material import Material, WeightMasks, material_nodes
from secformer_jax.mpc.runtime.coins import Coins
from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.party import Party
from secformer_jax.mpc.runtime.profile import Profile
from secformer_jax.mpc.runtime.program import OFFLINE, ONLINE, SETUP, Program, request_inputs, weight_input
from secformer_jax.mpc.runtime.shares import InputSpec, Share
from secformer_jax.mpc.runtime.zero_sharing import ZeroSharing


@dataclass(frozen=True)
class Compiled:
    """A shape's program under variable names of its own, and what has to be put in or dealt for a request."""

    program: Program
    digest: str
    specs: dict[str, jax.ShapeDtypeStruct]
    names: dict[str, str]
    inputs: tuple[InputSpec, ...]
    nodes: list[Material]

    def bits(self, name: str) -> int | None:
        """Of the ring that an input is shared in."""
        return self.inputs[int(name.removeprefix("input"))].bits if name.startswith("input") else None

    def read(self) -> set[str]:
        """The variables that the program reads, by their names on the wire."""
        used = self.program.read()
        return {name for name, own in self.names.items() if own in used}


class Programs:
    """The programs of a deployment: each is compiled once, for all lanes.

    Args:
        config: protocol and parties.
        deployment: what is published.
    """

    def __init__(self, config: MpcConfig, deployment: Deployment) -> None:
        self._config, self._deployment = config, deployment
        self._serving = serving(deployment, config.fraction_bits)
        self._compiled: dict[RequestShape, Compiled] = {}
        self._compiling = threading.Lock()

    def get(self, shape: RequestShape) -> Compiled:
        """The program for a shape.

        Raises:
            UserError: the deployment does not serve this shape.
        """
        with self._compiling:
            if shape not in self._compiled:
                self._deployment.check(shape)
                self._compiled[shape] = self._compile(shape)
                # What JAX keeps of tracing is of no use again: each program is traced once.
                jax.clear_caches()
            return self._compiled[shape]

    def forget(self, shape: RequestShape) -> None:
        """Give back what a program takes, when the last lane has forgotten it; XLA's code is most of it."""
        with self._compiling:
            self._compiled.pop(shape, None)
            jax.clear_caches()
            give_back()

    def _compile(self, shape: RequestShape) -> Compiled:
        needed = requirements(self._serving, shape)
        leaves, _ = jax.tree_util.tree_flatten_with_path(needed.weights)
        keep = self._deployment.keep_weights
        variables = [weight_input(path, public=self._serving.is_public, keep=keep) for path, _ in leaves]
        variables += request_inputs(needed.material, needed.arguments()[2:])
        program = compile_program(
            revealing(self._deployment.reveal, needed.compute),
            needed.arguments(),
            variables,
            self._config,
            part_of=part_of,
        )
        own = program.renamed({name for name in program.variables() if not name.startswith("weights")})
        request = jax.tree.leaves(needed.arguments()[1:])
        specs = {v.name: spec for v, spec in zip(variables[len(leaves) :], request, strict=True)}
        names = dict(zip(program.input_names, own.input_names, strict=True))
        return Compiled(own, program.digest(), specs, names, needed.inputs, material_nodes(needed.material))


@dataclass(frozen=True)
class Looking:
    """How the dealer is watched.

    Attributes:
        coins: of all parties.
        chance: that a piece is looked at instead of being used.
        masks: this party's shares of the weights' masks.
    """

    coins: Coins
    chance: float
    masks: Callable[[], WeightMasks]


class Computing:
    """One lane.

    Args:
        party: its runtime, with the published weights.
        programs: shared with the other lanes.
        zeros: for what the client gets.
        looking: whether a piece of the dealer's is looked at.
    """

    def __init__(self, party: Party, programs: Programs, zeros: ZeroSharing, looking: Looking) -> None:
        self._party, self._programs, self._zeros, self._looking = party, programs, zeros, looking
        self._committed: dict[RequestShape, str] = {}
        self._set_up: dict[RequestShape, Compiled] = {}
        self._pending: dict[RequestShape, set[str]] = {}
        self.commands: dict[str, Callable[[Message], Message | None]] = {
            "compile": self.compile,
            "material": self.material,
            "prepare": self.prepare,
            "audit": self.look,
            "drop": self.drop,
            "forget": self.forget,
            "rehearse": self.rehearse,
            "request": self.request,
        }

    def compile(self, message: Message) -> Message:
        """Compile for a shape, compare the program with the other parties', and run what needs no request."""
        shape, party = _shape(message), self._party
        if shape not in self._set_up:
            compiled = self._programs.get(shape)
            party.agree(compiled.digest)
            party.run(compiled.program, SETUP)
            self._set_up[shape] = compiled
        needs_material = any(name.startswith("material") for name in self._set_up[shape].specs)
        return Message("compiled", {"needs_material": needs_material, "program": self._set_up[shape].digest})

    def material(self, message: Message) -> None:
        """Take some of the dealer's material for the next request of a shape."""
        shape, committed = _shape(message), message.text("commitment")
        if self._committed.setdefault(shape, committed) != committed:
            raise ValueError("the dealer commits itself to two seeds for one piece")
        self._put(shape, shares_of(message), "material")

    def prepare(self, message: Message) -> Message:
        """Run what needs material and no input; or, if the parties' coins say so, nothing, to look at the material."""
        compiled = self._whole(_shape(message), "material")
        looks = self._looking.coins.toss(self._looking.chance)
        if not looks:
            del self._committed[_shape(message)]
        profile = Profile() if looks else self._party.run(compiled.program, OFFLINE)
        return Message("prepared", _cost(profile) | {"audit": looks})

    def look(self, message: Message) -> Message:
        """Make the material again from the dealer's seed, and forget it; says whether it was dealt rightly."""
        shape, seed = _shape(message), b"".join(map(bytes, message.chunks))
        compiled, committed = self._set_up[shape], self._committed.pop(shape)
        names = [name for name in compiled.specs if name.startswith("material")]
        used = {name: compiled.names[name] for name in compiled.read() if name.startswith("material")}
        held = {names.index(name): self._party.share_of(own) for name, own in used.items()}
        good, rests = audit(compiled.nodes, seed, self._looking.masks(), self._party.rank, held)
        self._party.free(used.values())
        good &= commitment(seed) == committed
        holds = not self._party.others(f"{good} {committed} {rests}") and good
        return Message("audited", {"holds": holds})

    def drop(self, message: Message) -> Message:
        """Forget what was prepared for a shape."""
        self._party.free(self._set_up[_shape(message)].program.prepared())
        return Message("dropped")

    def forget(self, message: Message) -> Message:
        """Forget the program of a shape, and what was computed for it from the weights alone."""
        shape = _shape(message)
        self._party.free(self._set_up.pop(shape).program.kept())
        self._programs.forget(shape)
        return Message("forgotten")

    def rehearse(self, message: Message) -> Message:
        """Compute on zeros with a piece of material, and forget the result: what is compiled late is compiled then."""
        shape = _shape(message)
        compiled = self._set_up[shape]
        for index, spec in enumerate(compiled.inputs):
            zeros = (np.zeros(spec.shape, np.int64),) * self._party.components
            self._put(shape, {f"input{index}": Share(spec.dtype, spec.shape, zeros, spec.bits)}, "input")
        self._whole(shape, "input")
        self._party.run(compiled.program, ONLINE)
        self._party.free(set(compiled.program.output_names))
        return Message("rehearsed")

    def request(self, message: Message) -> Message:
        """Compute; the answer holds this party's component of the result, and which texts are no input."""
        shape, party, started = _shape(message), self._party, time.perf_counter()
        inputs, shares = self._set_up[shape].inputs, shares_of(message)
        profile, wrong = Profile(), np.zeros(shape.rows, bool)
        if any(spec.one_hot for spec in inputs):
            party.costs()
            wrong = ~party.one_hot(inputs, shares)
            profile.add(party.costs())
        self._put(shape, {name: own for name, own in shares.items() if name.startswith("input")}, "input")
        compiled = self._whole(shape, "input")
        profile.add(party.run(compiled.program, ONLINE))
        cost = _cost(profile) | {"wrong": np.flatnonzero(wrong).tolist()}
        results = {
            f"output{index}": revealed(*party.get(name), self._zeros)
            for index, name in enumerate(compiled.program.output_names)
        }
        party.free(set(compiled.program.output_names))
        cost |= {"party_seconds": time.perf_counter() - started, "resident_bytes": resident_bytes()}
        return with_shares("result", cost, results)

    def _whole(self, shape: RequestShape, kind: str) -> Compiled:
        compiled = self._set_up[shape]
        missing = {name for name in compiled.specs if name.startswith(kind)} - self._pending.pop(shape, set())
        if missing & compiled.read():
            raise ValueError(f"the {kind} is incomplete")
        return compiled

    def _put(self, shape: RequestShape, shares: dict[str, Share], kind: str) -> None:
        compiled = self._set_up[shape]
        used = compiled.read()
        for name, share in shares.items():
            spec = compiled.specs.get(name) if name.startswith(kind) else None
            fits = spec is not None and (str(spec.dtype), spec.shape) == (share.dtype, share.shape)
            if not fits or (compiled.bits(name) or share.bits) != share.bits:
                raise ValueError(f"{name} {share.dtype} {share.shape} is nothing that this program takes")
            if name in used:
                self._party.put(compiled.names[name], share)
            self._pending.setdefault(shape, set()).add(name)


def revealed(dtype: str, ring: np.ndarray, zeros: ZeroSharing) -> Share:
    """What the client gets of a party's component of a result.

    The component is a function of the weights' shares and of masks that the dealer knows; plus a share of zero it is
    uniform to both, but for the sum.
    """
    return Share(dtype, ring.shape, (ring + zeros.next(ring.shape),))


def _shape(message: Message) -> RequestShape:
    return RequestShape(message.number("rows"), message.number("length"))


def _cost(profile: Profile) -> dict[str, Any]:
    total = profile.total
    return {"seconds": total.seconds, "send_bytes": total.send_bytes, "send_actions": total.send_actions}


def resident_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
