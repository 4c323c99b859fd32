"""What one lane of a worker does: programs in a runtime, material and inputs put in, results taken out."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from secformer_jax.cluster.party.conversations import Conversations
from secformer_jax.cluster.party.programs import Compiled, Programs
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire.message import Message, shares_of, with_shares
from secformer_jax.mpc.audit import OwnMasks, audit, commitment
from secformer_jax.mpc.runtime.coins import Coins
from secformer_jax.mpc.runtime.party import Held, Party
from secformer_jax.mpc.runtime.profile import Profile
from secformer_jax.mpc.runtime.program import OFFLINE, ONLINE, SETUP
from secformer_jax.mpc.runtime.shares import RING_BITS, Share, pack
from secformer_jax.mpc.runtime.zero_sharing import ZeroSharing


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
    masks: Callable[[], OwnMasks]


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
            "masks": self.masks,
            "end": self.end,
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
        shape, party = RequestShape.read(message).size, self._party
        if shape not in self._set_up:
            compiled = self._programs.get(shape)
            party.agree(compiled.program, compiled.digest)
            party.run(compiled.program, SETUP)
            self._set_up[shape] = compiled
        needs_material = any(name.startswith("material") for name in self._set_up[shape].specs)
        return Message("compiled", {"needs_material": needs_material, "program": self._set_up[shape].digest})

    def masks(self, message: Message) -> None:
        """Take some of the dealer's masks of a conversation's cache."""
        self._held_conversations().give(RequestShape.read(message).conversation, shares_of(message))

    def end(self, message: Message) -> Message:
        """Forget a conversation."""
        self._held_conversations().end(message.token("conversation"))
        return Message("ended")

    def _held_conversations(self) -> Conversations:
        if self._programs.conversations is None:
            raise ValueError("the published model generates nothing")
        return self._programs.conversations

    def material(self, message: Message) -> None:
        """Take some of the dealer's material for the next request of a shape."""
        shape, committed = RequestShape.read(message), message.text("commitment")
        if self._committed.setdefault(shape, committed) != committed:
            raise ValueError("the dealer commits itself to two seeds for one piece")
        self._put(shape, shares_of(message), "material")

    def prepare(self, message: Message) -> Message:
        """Run what needs material and no input; or, if the parties' coins say so, nothing, to look at the material."""
        compiled = self._whole(RequestShape.read(message), "material")
        looks = self._looking.coins.toss(self._looking.chance)
        if not looks:
            del self._committed[RequestShape.read(message)]
        profile = Profile() if looks else self._party.run(compiled.program, OFFLINE)
        return Message("prepared", _cost(profile) | {"audit": looks})

    def look(self, message: Message) -> Message:
        """Make the material again from the dealer's seed, and forget it; says whether it was dealt rightly."""
        shape, seed = RequestShape.read(message), b"".join(map(bytes, message.chunks))
        compiled, committed = self._set_up[shape.size], self._committed.pop(shape)
        masks = self._looking.masks()
        if shape.conversation:
            masks = masks.and_more(self._held_conversations().masks(shape.conversation))
        names = [name for name in compiled.specs if name.startswith("material")]
        used = {name: compiled.names[name] for name in compiled.read() if name.startswith("material")}
        held = {names.index(name): self._party.share_of(own) for name, own in used.items()}
        good, rests = audit(compiled.nodes, seed, masks, self._party.rank, held)
        self._party.free(used.values())
        good &= commitment(seed) == committed
        holds = not self._party.others(f"{good} {committed} {rests}") and good
        return Message("audited", {"holds": holds})

    def drop(self, message: Message) -> Message:
        """Forget what was prepared for a shape."""
        self._party.free(self._set_up[RequestShape.read(message).size].program.prepared())
        return Message("dropped")

    def forget(self, message: Message) -> Message:
        """Forget the program of a shape, and what was computed for it from the weights alone."""
        shape = RequestShape.read(message).size
        self._party.free(self._set_up.pop(shape).program.kept())
        self._programs.forget(shape)
        return Message("forgotten")

    def rehearse(self, message: Message) -> Message:
        """Compute on zeros with a piece of material, and forget the result: what is compiled late is compiled then."""
        shape = RequestShape.read(message)
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
        shape, party, started = RequestShape.read(message), self._party, time.perf_counter()
        inputs, shares = self._set_up[shape.size].inputs, shares_of(message)
        profile, wrong = Profile(), np.zeros(shape.rows, bool)
        if any(spec.one_hot for spec in inputs):
            party.costs()
            wrong = ~party.one_hot(inputs, shares).reshape(shape.rows, -1).all(axis=1)
            profile.add(party.costs())
        self._put(shape, {name: own for name, own in shares.items() if name.startswith("input")}, "input")
        compiled = self._whole(shape, "input")
        profile.add(self._pass(compiled, shape) if shape.conversation else party.run(compiled.program, ONLINE))
        cost = _cost(profile) | {"wrong": np.flatnonzero(wrong).tolist()}
        results = {
            f"output{index}": revealed(*party.get(name), self._zeros, self._programs.result_bits)
            for index, name in enumerate(compiled.program.output_names)
        }
        party.free(set(compiled.program.output_names))
        cost |= {"party_seconds": time.perf_counter() - started, "resident_bytes": resident_bytes()}
        return with_shares("result", cost, results)

    def _pass(self, compiled: Compiled, shape: RequestShape) -> Profile:
        """Compute a conversation's next tokens, with what it has left here."""
        conversations, party, names = self._held_conversations(), self._party, compiled.names
        state, known = conversations.enter(shape)
        party.hold({names[f"state{i}"]: held for i, held in enumerate(state)})
        for i, leaf in enumerate(known):
            party.put_public(names[f"known{i}"], Held(leaf, False))
        profile = party.run(compiled.program, ONLINE)
        conversations.leave(shape, party.take(compiled.program.state))
        return profile

    def _whole(self, shape: RequestShape, kind: str) -> Compiled:
        compiled = self._set_up[shape.size]
        missing = {name for name in compiled.specs if name.startswith(kind)} - self._pending.pop(shape, set())
        if missing & compiled.read():
            raise ValueError(f"the {kind} is incomplete")
        return compiled

    def _put(self, shape: RequestShape, shares: dict[str, Share], kind: str) -> None:
        compiled = self._set_up[shape.size]
        used = compiled.read()
        for name, share in shares.items():
            spec = compiled.specs.get(name) if name.startswith(kind) else None
            fits = spec is not None and (str(spec.dtype), spec.shape) == (share.dtype, share.shape)
            if not fits or (compiled.bits(name) or share.bits) != share.bits:
                raise ValueError(f"{name} {share.dtype} {share.shape} is nothing that this program takes")
            if name in used:
                self._party.put(compiled.names[name], share)
            self._pending.setdefault(shape, set()).add(name)


def revealed(dtype: str, ring: np.ndarray, zeros: ZeroSharing, bits: int = RING_BITS) -> Share:
    """What the client gets of a party's component of a result.

    The component is a function of the weights' shares and of masks that the dealer knows; plus a share of zero it is
    uniform to both, but for the sum. What stands above the result's own bits depends on masks and weights, and stays.
    """
    return Share(dtype, ring.shape, (pack(ring + zeros.next(ring.shape), bits),), bits)


def _cost(profile: Profile) -> dict[str, Any]:
    total = profile.total
    return {"seconds": total.seconds, "send_bytes": total.send_bytes, "send_actions": total.send_actions}


def resident_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
