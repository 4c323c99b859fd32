"""One computing party of network.py: its job, and a process with a link of its own that does it. Not for use by hand.

    python experiments/party.py JOB RANK OUT

Takes its shares and the compiled program, runs set-up and every request, and writes what each request's online part
took and cost, and its shares of the results.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from spu import libspu

from secformer_jax.inference.serving import Serving, function, variables
from secformer_jax.models import transformer as bert
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.material import Dealer, Dealt
from secformer_jax.mpc.runtime import one_hot
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.engine import Engine, Result
from secformer_jax.mpc.runtime.link import PAYLOAD_BYTES
from secformer_jax.mpc.runtime.local import LocalFunction
from secformer_jax.mpc.runtime.party import Held, Party
from secformer_jax.mpc.runtime.pieces import joined
from secformer_jax.mpc.runtime.program import OFFLINE, ONLINE, SETUP, LocalStage, Program, weight_input
from secformer_jax.mpc.runtime.shares import InputSpec, Share, deal, encode, pack, pieces, share

Given = dict[str, Share | np.ndarray]
"""A party's variables by name: shares, or ring elements in clear."""


class Recorded:
    """A local function that keeps what it was called with first, as shapes: what `Exported` needs to know."""

    small = None

    def __init__(self, function: LocalFunction) -> None:
        self._function = function
        self._shapes: list[Any] | None = None

    @property
    def secret_outputs(self) -> tuple[bool, ...]:
        """Of the results, which ones are shares."""
        return self._function.secret_outputs

    def __call__(self, first: np.ndarray, arguments: Sequence[Any]) -> list[jax.Array]:
        """Run it; see LocalFunction."""
        if self._shapes is None:
            self._shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), list(arguments))
        return self._function.by_xla(first, arguments)

    def exported(self) -> Exported:
        """The same for another process."""
        shapes = self._shapes or []
        with enable_x64():
            module = export.export(jax.jit(lambda first, *arguments: self._function(first, arguments)))(
                jax.ShapeDtypeStruct((1,), np.int64), *shapes
            )
        return Exported(shapes, self.secret_outputs, module.serialize())


@dataclasses.dataclass
class Exported:
    """A local stage's function in a form that another process can load, for one component a share."""

    shapes: list[Any]
    secret_outputs: tuple[bool, ...]
    module: bytearray
    small: None = None

    def __call__(self, first: np.ndarray, arguments: Sequence[Any]) -> list[jax.Array]:
        """Run it on one party's shares; see LocalFunction."""
        with enable_x64():
            return self._function(first, *map(_as_exported, arguments, self.shapes))

    @functools.cached_property
    def _function(self) -> Any:
        return jax.jit(export.deserialize(self.module).call)


def _as_exported(argument: Any, shape: Any) -> Any:
    """Packed or not, as it was when the function was recorded: that depends on what has read a share before."""
    if isinstance(argument, tuple) and not isinstance(shape, tuple):
        return joined(argument).reshape(shape.shape)
    if isinstance(shape, tuple) and not isinstance(argument, tuple):
        bits = 8 * sum(piece.dtype.itemsize for piece in shape)
        return pieces(pack(np.asarray(argument), bits), bits)
    return argument


def jobs(
    config: MpcConfig, serving: Serving, batch: Encoded, length: int, requests: int = 2
) -> tuple[list[dict[str, Any]], Result]:
    """Each party's job for some equal requests, and the last of them in simulation."""
    dealer = Dealer()
    weights, inputs, module = serving.weights(dealer), serving.inputs.arrays(batch), serving.model(length)
    material, specs = variables(module, inputs).get("dealer", {}), serving.inputs.specs(1, length)
    with Engine(config, part_of=bert.part_of) as engine:
        engine.publish(weights, public=serving.is_public)
        compiled = engine.compile(function(module), material, *inputs)
        program = _with_functions(compiled, lambda stage: Recorded(stage.function))
        for _ in range(requests):
            simulated = engine.run(program, dealer.deal(material), *inputs, specs=specs)
    sent = _with_functions(program, lambda stage: stage.function.exported())
    kept = _weights(config, program, weights, serving.is_public)
    asked = [_request(config, program, dealer.deal(material), inputs, specs) for _ in range(requests)]
    common = {"config": config, "program": dataclasses.replace(sent, output_tree=None)}
    found = [{**common, "weights": own, "requests": [each[rank] for each in asked]} for rank, own in enumerate(kept)]
    return found, simulated


def _with_functions(program: Program, make: Callable[[Any], Any]) -> Program:
    stages = tuple(
        dataclasses.replace(stage, function=make(stage)) if isinstance(stage, LocalStage) else stage
        for stage in program.stages
    )
    return dataclasses.replace(program, stages=stages)


def _weights(config: MpcConfig, program: Program, weights: Any, is_public: Callable[[str], bool]) -> list[Given]:
    """What each party keeps, of the published leaves that the program reads."""

    def given() -> Iterator[tuple[str, list[Any]]]:
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
            variable, array = weight_input(path, public=is_public, keep=True), np.asarray(leaf)
            yield variable.name, _shares(config, array) if variable.secret else [array] * config.world_size

    return _by_rank(config, program, given())


def _request(
    config: MpcConfig, program: Program, dealt: Dealt, inputs: Sequence[Any], specs: Sequence[InputSpec]
) -> list[dict[str, Any]]:
    """What each party gets for one request, from the dealer and from the client."""

    def material() -> Iterator[tuple[str, list[Any]]]:
        for i, array in enumerate(dealt.take(config.world_size)):
            yield f"material{i}", deal(array.components, "int64", array.shape, config.protocol, array.bits)

    dealt_by_rank = _by_rank(config, program, material())
    sent = one_hot.shared(specs, inputs, config.protocol, config.world_size, config.fraction_bits)
    read = set(program.read())
    return [
        {
            "material": material,
            "specs": specs,
            "sent": shares,
            "inputs": {name: share for name, share in shares.items() if name in read},
        }
        for material, shares in zip(dealt_by_rank, sent, strict=True)
    ]


def _shares(config: MpcConfig, array: np.ndarray) -> list[Share]:
    return share(encode(array, config.fraction_bits), str(array.dtype), config.protocol, config.world_size)


def _by_rank(config: MpcConfig, program: Program, given: Iterable[tuple[str, list[Any]]]) -> list[Given]:
    read = {name for stage in program.stages for name in stage.inputs} | set(program.output_names)
    found: list[Given] = [{} for _ in range(config.world_size)]
    for name, own in given:
        if name in read:
            for rank, each in enumerate(own):
                found[rank][name] = each
    return found


def main(job_path: str, rank: int, out: str) -> None:
    """Run one party to its end."""
    job = pickle.loads(Path(job_path).read_bytes())
    description = libspu.link.Desc()
    description.id = "network-check"
    description.connect_retry_times, description.connect_retry_interval_ms = 120, 500
    description.recv_timeout_ms = description.http_timeout_ms = 600_000
    description.http_max_payload_size = PAYLOAD_BYTES
    for other, address in enumerate(job["addresses"]):
        description.add_party(f"party-{other}", address)
    link = libspu.link.create_brpc(description, rank)
    party, program = Party(job["config"], link), job["program"]

    def give(given: Given) -> None:
        for name, value in given.items():
            if isinstance(value, Share):
                party.put(name, value)
            else:
                party.put_public(name, Held(value, False))

    give(job["weights"])
    party.run(program, SETUP)
    found = []
    for request in job["requests"]:
        give(request["material"])
        party.run(program, OFFLINE)
        link.barrier()
        started = time.perf_counter()
        if (
            any(spec.one_hot for spec in request["specs"])
            and not party.one_hot(request["specs"], request["sent"]).all()
        ):
            raise RuntimeError("the input is not one-hot")
        total = party.costs().total
        give(request["inputs"])
        total.add(party.run(program, ONLINE).total)
        seconds = time.perf_counter() - started
        results = [party.get(name) for name in program.output_names]
        party.free(set(program.output_names) - set(job["weights"]))
        found.append({"seconds": seconds, "results": results, "bytes": total.send_bytes, "sends": total.send_actions})
    link.barrier()
    Path(out).write_bytes(pickle.dumps(found))
    party.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
