"""One computing party in a process of its own: SPU's runtime, and this party's shares and no others'."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import spu
from jax.experimental import enable_x64
from spu import experimental, libspu

from .config import MpcConfig
from .profile import LogReader, Profile, parse
from .program import SETUP, Input, Program, compile_program
from .shares import HELD, Share

_CHUNK_BYTES = 1 << 27
_STORAGE = {"SEMI2K": "semi2k.AShr<FM64>", "CHEETAH": "cheetah.AShr<FM64>", "ABY3": "aby3.AShr<FM64>"}
_DTYPES = {"float32": libspu.DataType.DT_F32, "int32": libspu.DataType.DT_I32, "int64": libspu.DataType.DT_I64}


class Party:
    """SPU's runtime at one end of the link.

    Args:
        config: protocol and ring.
        link: to the other parties; its rank is this party's.
    """

    def __init__(self, config: MpcConfig, link: libspu.link.Context) -> None:
        self._config, self._link = config, link
        self._log = LogReader()
        self._runtime = spu.Runtime(link, config.runtime_config(profile=True))
        self._openings: dict[tuple[int, ...], Program] = {}

    def put(self, name: str, share: Share) -> None:
        """Give the runtime a variable.

        Raises:
            ValueError: a share with another number of components than this protocol's.
        """
        held = HELD[self._config.protocol](self._link.rank)
        if len(share.components) != len(held):
            raise ValueError(f"{name}: {len(share.components)} components, and {len(held)} were expected")
        rings = share.rings()
        ring = rings[0] if len(rings) == 1 else np.stack(rings, axis=-1)
        meta = libspu.ValueMeta()
        meta.data_type, meta.visibility = _DTYPES[share.dtype], libspu.Visibility.VIS_SECRET
        meta.shape, meta.storage_type = list(share.shape), _STORAGE[self._config.protocol]
        piece = libspu.Share()
        piece.meta, piece.share_chunks = meta.SerializeToString(), list(_chunks(ring))
        self._runtime.set_var(name, piece)

    def get(self, name: str) -> tuple[str, np.ndarray]:
        """The dtype of a secret variable, and the ring elements of this party's own component."""
        piece = self._runtime.get_var(name)
        meta = libspu.ValueMeta()
        meta.ParseFromString(piece.meta)
        if meta.storage_type != _STORAGE[self._config.protocol]:
            raise ValueError(f"{name} is held as {meta.storage_type}, and a shared number was expected")
        dtype = next(dtype for dtype, value in _DTYPES.items() if value == meta.data_type)
        content = b"".join(_content(chunk) for chunk in piece.share_chunks)
        width = len(HELD[self._config.protocol](self._link.rank))
        shape = tuple(meta.shape.dims)
        return dtype, np.frombuffer(content, np.int64).reshape(*shape, width)[..., 0]

    def free(self, names: Iterable[str]) -> None:
        """Forget variables."""
        for name in names:
            self._runtime.del_var(name)

    def run(self, program: Program, phase: int) -> Profile:
        """Run a phase of a program together with the other parties; returns what it cost this one."""
        self._log.lines()
        for stage in program.stages:
            if stage.phase == phase:
                self._runtime.run(stage.executable())
                self.free(stage.frees)
        return parse(self._log.lines())

    def open_difference(self, secret: str, mask: str, result: str, shape: tuple[int, ...]) -> None:
        """Open secret - mask, two shared int64 variables of this shape, as the public variable `result`."""
        if shape not in self._openings:
            specs = [np.broadcast_to(np.int64(0), shape)] * 2
            inputs = [Input("secret", SETUP), Input("mask", SETUP)]
            self._openings[shape] = compile_program(
                _opened_difference, specs, inputs, self._config, part_of=lambda stack: "publish"
            )
        program = self._openings[shape]
        [stage] = program.stages
        names = {"secret": secret, "mask": mask}
        self._runtime.run(
            libspu.Executable(
                name=stage.part,
                input_names=[names[name] for name in stage.inputs],
                output_names=[result],
                code=stage.code,
            )
        )

    def agree(self, digest: str) -> None:
        """Compare a digest with the other parties'.

        Raises:
            RuntimeError: a party has another one.
        """
        digests = self._link.all_gather(digest)
        others = [str(rank) for rank, other in enumerate(digests) if other != digest]
        if others:
            raise RuntimeError(
                f"rank {', '.join(others)} compiled another program: install the same versions everywhere"
            )

    def close(self) -> None:
        """Leave the link."""
        self._link.stop_link()


def _opened_difference(secret, mask):
    with enable_x64():
        return experimental.reveal(secret - mask)


def _chunks(ring: np.ndarray) -> Iterable[bytes]:
    view = np.ascontiguousarray(ring).data.cast("B")
    for start in range(0, max(view.nbytes, 1), _CHUNK_BYTES):
        chunk = libspu.ValueChunk()
        chunk.total_bytes, chunk.chunk_offset = view.nbytes, start
        chunk.content = bytes(view[start : start + _CHUNK_BYTES])
        yield chunk.SerializeToString()


def _content(data: bytes) -> bytes:
    chunk = libspu.ValueChunk()
    chunk.ParseFromString(data)
    return chunk.content
