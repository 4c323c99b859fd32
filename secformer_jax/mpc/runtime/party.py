"""One computing party: SPU's runtime at its end of the link, this party's shares, and no others'.

Values are here as plain arrays until SPU reads them, and in SPU's runtime from then on: what SPU writes stays there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

import numpy as np
import spu
from spu import libspu

from secformer_jax.mpc.ring import cut, ring_matmul
from secformer_jax.mpc.runtime.coins import Coins
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.exchange import open_shares
from secformer_jax.mpc.runtime.one_hot import one_hot
from secformer_jax.mpc.runtime.profile import Cost, LogReader, Profile, parse
from secformer_jax.mpc.runtime.program import LocalStage, OpeningStage, ProductStage, Program, Stage, Step
from secformer_jax.mpc.runtime.shares import HELD, RING_BITS, InputSpec, Share, pieces
from secformer_jax.mpc.runtime.values import from_spu, to_spu
from secformer_jax.mpc.runtime.waves import last_bits


@dataclass
class Held:
    """A value outside SPU's runtime.

    Attributes:
        array: ring elements, (components, *shape) if they are shares; a share that nobody has read yet; or digits of
            a matrix, of each component.
        secret: whether it is shared.
        dtype: of the plaintext.
        cutting: held by the party that makes digits.
    """

    array: Any
    secret: bool
    dtype: str = "int64"
    cutting: threading.Lock = field(default_factory=threading.Lock, repr=False)


class Party:
    """SPU's runtime at one end of the link, and what is beside it.

    Args:
        config: protocol and ring.
        link: to the other parties; its rank is this party's.
        profiled: have SPU log its costs.
        tag: ends the names under which they are logged, where several runtimes of one process are profiled. SPU counts
            the bytes of links that were spawned from one together.
    """

    def __init__(self, config: MpcConfig, link: libspu.link.Context, *, profiled: bool = True, tag: str = "") -> None:
        self._config, self._link = config, link
        self._runtime = spu.Runtime(link, config.runtime_config(profile=profiled))
        self._log, self._tag = LogReader() if profiled else None, tag
        self._held: dict[str, Held] = {}
        self._own = Profile()
        self._coins: Coins | None = None
        self._components = HELD[config.protocol](link.rank)
        self._first = np.array([component == 0 for component in self._components], np.int64)

    @property
    def rank(self) -> int:
        """Of this party."""
        return self._link.rank

    @property
    def components(self) -> int:
        """How many components of a share this party holds."""
        return len(self._components)

    def put(self, name: str, share: Share) -> None:
        """Keep a share.

        Raises:
            ValueError: a share with another number of components than this protocol's.
        """
        if len(share.components) != len(self._components):
            raise ValueError(f"{name}: {len(share.components)} components, and {len(self._components)} were expected")
        self._held[name] = Held(share, True, share.dtype)

    def hold_what(self, other: Party) -> None:
        """Keep what another runtime of this party holds, without a copy."""
        self._held |= other._held

    def put_public(self, name: str, public: Held) -> None:
        """Keep a public value; parties of one process may hold the same, and the digits that are cut of it, once."""
        self._held[name] = public

    def take(self, names: Iterable[str]) -> list[Held]:
        """Values, which this party then holds no more; of SPU's runtime secrets alone."""

        def taken(name: str) -> Held:
            if name in self._held:
                return self._held.pop(name)
            dtype, ring = from_spu(self._runtime.get_var(name), self._config.protocol)
            self._runtime.del_var(name)
            return Held(ring, True, dtype)

        return [taken(name) for name in names]

    def hold(self, values: Mapping[str, Held]) -> None:
        """Keep what was taken."""
        self._held |= values

    def get(self, name: str) -> tuple[str, np.ndarray]:
        """The dtype of a variable, and this party's component of its ring elements; of what is public, all or none."""
        held = self._held.get(name)
        if held is not None:
            ring = np.asarray(self._read(name, held.secret))
            return held.dtype, ring[0] if held.secret else ring * self._first[0]
        dtype, ring = from_spu(self._runtime.get_var(name), self._config.protocol)
        return dtype, ring[0]

    def open_difference(self, secret: str, mask: str, result: str) -> None:
        """Open secret - mask, two shared int64 variables, as the public variable `result`."""
        share = np.asarray(self._read(secret, True)) - np.asarray(self._read(mask, True))
        [found], _, _ = open_shares(self._link, self._config.protocol, [share], [RING_BITS])
        self.put_public(result, Held(found, False))

    def share_of(self, name: str) -> Share:
        """A share that was put here and that nobody has read since."""
        found = self._held[name].array
        assert isinstance(found, Share)
        return found

    def one_hot(self, inputs: Sequence[InputSpec], shares: Mapping[str, Share]) -> np.ndarray:
        """Check with the other parties which texts of a client's input are one-hot: bool (texts,); see `one_hot`."""
        if self._coins is None:
            self._coins = Coins(self._link)
        started, cost = time.perf_counter(), Cost()

        def opened(values: Sequence[np.ndarray], bits: Sequence[int]) -> list[np.ndarray]:
            found, sent, messages = open_shares(self._link, self._config.protocol, values, bits)
            cost.add(Cost(0.0, sent, messages))
            return found

        found = one_hot(inputs, shares, self._coins.seed, self._first, opened)
        cost.seconds = time.perf_counter() - started
        self._own.add_own("input", "check", cost)
        return found

    def agree(self, program: Program, digest: str) -> None:
        """Compare a program with the other parties', and how they compute what is public in it.

        Raises:
            RuntimeError: a party has another one, or gets other last bits.
        """
        self._agree(digest, "compiled another program: install the same versions, and use equal machines")
        if any(isinstance(stage, OpeningStage) for stage in program.stages):
            self._agree(last_bits(), "gets other last bits of a cosine: run all servers on one kind of processor")

    def _agree(self, text: str, otherwise: str) -> None:
        others = self.others(text)
        if others:
            raise RuntimeError(f"rank {', '.join(map(str, others))} {otherwise}")

    def others(self, text: str) -> list[int]:
        """The ranks of those who say another text."""
        return [rank for rank, other in enumerate(self._link.all_gather(text)) if other != text]

    def close(self) -> None:
        """Leave the link."""
        self._link.stop_link()

    def in_runtime(self, name: str) -> bool:
        """Whether a variable is SPU's, in whatever form."""
        return name not in self._held

    def runtime_share(self, name: str) -> libspu.Share:
        """What SPU holds of a variable."""
        return self._runtime.get_var(name)

    def free(self, names: Iterable[str]) -> None:
        """Forget variables."""
        for name in names:
            if self._held.pop(name, None) is None:
                self._runtime.del_var(name)

    def run(self, program: Program, phase: int) -> Profile:
        """Run a phase of a program together with the other parties; returns what it cost this one."""
        self.costs()
        for stage in program.stages:
            if stage.phase == phase:
                self.step(stage)
        return self.costs()

    def step(self, stage: Step) -> None:
        """Run one stage together with the other parties."""
        self._run(stage)
        self.free(stage.frees)

    def costs(self) -> Profile:
        """What the stages since the last call cost this party; of SPU's only if it is profiled."""
        profile, self._own = self._own, Profile()
        if self._log is not None:
            profile.add(parse(self._log.lines(), self._tag))
        return profile

    @singledispatchmethod
    def _run(self, stage: Step) -> None:
        raise TypeError(f"{type(stage).__name__} is no stage")

    @_run.register
    def _(self, stage: Stage) -> None:
        for name in stage.inputs:
            if name in self._held:
                held = self._held[name]
                if isinstance(held.array, Share) and held.array.bits < RING_BITS:
                    raise RuntimeError(f"{name} is a value modulo 2^{held.array.bits}: SPU's ring has {RING_BITS} bits")
                array = np.asarray(self._read(name, held.secret))
                del self._held[name]
                share = to_spu(array, self._config.protocol, secret=held.secret, dtype=held.dtype)
                self._runtime.set_var(name, share)
        self._runtime.run(stage.executable(self._tag))

    @_run.register
    def _(self, stage: LocalStage) -> None:
        started = time.perf_counter()
        read = self._read if stage.function.small is not None else self._read_for_xla
        arguments = [read(*each) for each in zip(stage.inputs, stage.secret, strict=True)]
        results = stage.function(self._first, arguments)
        for name, array, secret in zip(stage.outputs, results, stage.function.secret_outputs, strict=True):
            self._held[name] = Held(array, secret)
        self._own.add_own(stage.part, "local", Cost(time.perf_counter() - started))

    @_run.register
    def _(self, stage: ProductStage) -> None:
        started = time.perf_counter()
        left, right = (
            self._factor(name, secret, stage.bits, kept)
            for name, secret, kept in zip(stage.inputs, stage.secret, stage.kept, strict=True)
        )
        # A public factor meets every component of the secret one.
        products = [ring_matmul(x, y, stage.bits) for x in left for y in right]
        result = (
            products[0] if not any(stage.secret) else products[0][None] if len(products) == 1 else np.stack(products)
        )
        self._held[stage.outputs[0]] = Held(result, any(stage.secret))
        self._own.add_own(stage.part, "product", Cost(time.perf_counter() - started))

    @_run.register
    def _(self, stage: OpeningStage) -> None:
        started = time.perf_counter()
        shares = [np.asarray(self._read(name, True)) for name in stage.inputs]
        found, sent, messages = open_shares(self._link, self._config.protocol, shares, stage.bits)
        for name, array in zip(stage.outputs, found, strict=True):
            self._held[name] = Held(array, False)
        self._own.add_own(stage.part, "opening", Cost(time.perf_counter() - started, sent, messages))

    def _read(self, name: str, secret: bool) -> Any:
        """Ring elements, (components, *shape) of a secret."""
        held = self._held.get(name)
        if held is None:
            return from_spu(self._runtime.get_var(name), self._config.protocol, secret=secret)[1]
        if isinstance(held.array, list):
            raise RuntimeError(f"{name} is held as digits, for products of matrices alone")
        if isinstance(held.array, Share):
            held.array = held.array.stacked()
        return held.array

    def _read_for_xla(self, name: str, secret: bool) -> Any:
        """The same, or the pieces of a packed share of one component."""
        held = self._held.get(name)
        if held is None or not isinstance(held.array, Share) or len(self._components) > 1:
            return self._read(name, secret)
        held.array = held.array.expanded()
        return pieces(held.array.components[0], held.array.bits)

    def _factor(self, name: str, secret: bool, bits: int, kept: bool) -> list[Any]:
        """A factor of a product: one matrix, or one for each component. What stays is held as digits from then on."""
        held = self._held.get(name) or Held(None, secret)
        # Another party of this process may be cutting what both hold.
        with held.cutting:
            if isinstance(held.array, list):
                return held.array
            array = np.asarray(self._read(name, secret))
            factors = [cut(each, bits) if kept else each for each in (array if secret else [array])]
            if kept:
                held.array = factors
        return factors
