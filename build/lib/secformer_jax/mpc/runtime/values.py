"""What SPU's runtime holds, as plain arrays of ring elements, and back.

A party's part of a secret is int64 (components, *shape): one component in SEMI2K and CHEETAH, two in ABY3, and the
secret itself in REF2K, the emulator. A public value is int64 of its own shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from spu import libspu

_CHUNK_BYTES = 1 << 27
_SECRET = {
    "SEMI2K": "semi2k.AShr<FM64>",
    "CHEETAH": "cheetah.AShr<FM64>",
    "ABY3": "aby3.AShr<FM64>",
    "REF2K": "ref2k.Sec<FM64>",
}
_PUBLIC = "Pub2k<FM64>"
_DTYPES = {"float32": libspu.DataType.DT_F32, "int32": libspu.DataType.DT_I32, "int64": libspu.DataType.DT_I64}


def to_spu(array: np.ndarray, protocol: str, *, secret: bool = True, dtype: str = "int64") -> libspu.Share:
    """A party's part of a value, for `Runtime.set_var`; dtype is the plaintext's."""
    meta, share = libspu.ValueMeta(), libspu.Share()
    meta.data_type = _DTYPES[dtype]
    meta.visibility = libspu.Visibility.VIS_SECRET if secret else libspu.Visibility.VIS_PUBLIC
    meta.shape, meta.storage_type = list(array.shape[1:] if secret else array.shape), _storage(protocol, secret)
    ring = np.moveaxis(array, 0, -1) if secret else array
    share.meta, share.share_chunks = meta.SerializeToString(), list(_chunks(ring))
    return share


def from_spu(share: libspu.Share, protocol: str, *, secret: bool = True) -> tuple[str, np.ndarray]:
    """The plaintext's dtype, and a party's part of a value, from `Runtime.get_var`.

    Raises:
        ValueError: the runtime holds it in another form, as bits for example.
    """
    meta = libspu.ValueMeta()
    meta.ParseFromString(share.meta)
    if meta.storage_type != _storage(protocol, secret):
        raise ValueError(f"a value is held as {meta.storage_type}, and {_storage(protocol, secret)} was expected")
    dtype = next(dtype for dtype, value in _DTYPES.items() if value == meta.data_type)
    pieces = [_content(chunk) for chunk in share.share_chunks]
    flat = np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), np.int64)
    shape = tuple(meta.shape.dims)
    return dtype, np.moveaxis(flat.reshape(*shape, -1), -1, 0) if secret else flat.reshape(shape)


def _storage(protocol: str, secret: bool) -> str:
    return _SECRET[protocol] if secret else _PUBLIC


def _chunks(ring: np.ndarray) -> Iterable[bytes]:
    view = np.ascontiguousarray(ring).reshape(-1).view(np.uint8)
    for start in range(0, max(view.nbytes, 1), _CHUNK_BYTES):
        chunk = libspu.ValueChunk()
        chunk.total_bytes, chunk.chunk_offset = view.nbytes, start
        chunk.content = view[start : start + _CHUNK_BYTES].tobytes()
        yield chunk.SerializeToString()


def _content(data: bytes) -> bytes:
    chunk = libspu.ValueChunk()
    chunk.ParseFromString(data)
    return chunk.content
