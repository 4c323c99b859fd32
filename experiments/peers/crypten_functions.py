"""SecFormer's and Puma's functions, and CrypTen's own, on CrypTen's shares: for crypten_party.py.

The formulas are those of secformer_jax/functions, and so are their constants, which come as arguments. What can share a
round does: comparisons of one value are stacked, and so are products that don't wait for each other.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

try:
    importlib.import_module("torch.onnx._internal.registration")
except ModuleNotFoundError:
    # CrypTen 0.4.1 imports it for models in ONNX, of which there is none here. It is elsewhere in torch 2.13.
    sys.modules["torch.onnx._internal.registration"] = importlib.import_module(
        "torch.onnx._internal.torchscript_exporter.registration"
    )
import crypten
import torch
from crypten import communicator
from crypten.common.rng import generate_random_ring_element
from crypten.config import cfg
from crypten.mpc import MPCTensor
from crypten.mpc.provider import TTPServer
from crypten.mpc.provider.ttp_provider import TTPClient

Shared = Any
"""A CrypTen tensor."""

MASK_OFFSET = 256.0


class Assistant(TTPServer):
    """CrypTen's trusted third party, which deals sines as well: SecFormer's assistant server. Runs until it is told to
    end."""

    def waves(self, size: Sequence[int], period: int, harmonics: int) -> torch.Tensor:
        """Party 0's shares of sin(k t) and cos(k t), k = 1 to `harmonics`; t in units of the ring, by its period.

        As for CrypTen's own triples, t and the other party's shares follow from seeds.
        """
        t = self._get_additive_PRSS(size)
        angle = (t % period).double() * (2 * math.pi / period) * _counts(harmonics, t)
        values = torch.stack([torch.sin(angle), torch.cos(angle)])
        shared = torch.round(values * 2**cfg.encoder.precision_bits).long()
        return shared - self._get_additive_PRSS(shared.size(), remove_rank=True)


def deal_waves(size: Sequence[int], period: float, harmonics: int) -> tuple[Shared, Shared]:
    """Shares of a mask t, uniform in the ring, and of its sines and cosines; each is used once."""
    client, ring_period = TTPClient.get(), int(period * 2**cfg.encoder.precision_bits)
    generator = client.get_generator()
    t = generate_random_ring_element(size, generator=generator)
    if communicator.get().get_rank() == 0:
        waves = client.ttp_request("waves", None, size, ring_period, harmonics)
    else:
        waves = generate_random_ring_element((2, harmonics, *size), generator=generator)
    return MPCTensor.from_shares(t), MPCTensor.from_shares(waves)


def _counts(harmonics: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(1, harmonics + 1).reshape(-1, *[1] * like.dim())


def sine_series(x: Shared, dealt: tuple[Shared, Shared], period: float, coefficients: Sequence[float]) -> Shared:
    """sum_k c_k sin(2 pi k x/period), as SecFormer's Pi_Sin: x - t is opened, one round; the rest is each party's own.

    The period is a power of two, so opening modulo the ring is opening modulo the period, and t hides x altogether.
    """
    t, waves = dealt
    opened = (x - t).reveal()
    ring_period = int(period * 2**cfg.encoder.precision_bits)
    angle = (opened % ring_period).double() * (2 * math.pi / ring_period) * _counts(len(coefficients), opened)
    weights = torch.stack([torch.cos(angle), torch.sin(angle)])
    weights *= torch.tensor(coefficients, dtype=torch.float64).reshape(-1, *[1] * opened.dim())
    return (waves * weights).sum(0).sum(0)


def negative(*values: Shared) -> list[Shared]:
    """Bits: which of the values are below 0. One comparison's rounds for all."""
    bits = crypten.stack(list(values)).lt(0)
    return [bits[i] for i in range(len(values))]


def products(left: list[Shared], right: list[Shared]) -> list[Shared]:
    """Products of pairs of one shape, in one round."""
    found = crypten.stack(left) * crypten.stack(right)
    return [found[i] for i in range(len(left))]


def gelu_secformer(
    x: Shared, *, dealt: Any, rescale: float, limit: float, period: float, coefficients: Sequence[float]
) -> Shared:
    """x (1/2 + s(v)), v = rescale x, where abs(v) <= limit; 0 below, x above. The coefficients come halved."""
    v = x * rescale
    under, over = negative(v + limit, limit - v)
    middle = sine_series(v, dealt, period, coefficients) + 0.5
    return x * (middle * (1 - under - over) + over)


def gelu_puma(x: Shared, *, cubic: Sequence[float], sextic: Sequence[float]) -> Shared:
    """0 below -4, a cubic, a sextic from -1.95, x above 3; the sextic monic in t = g x^2 (functions/gelu.py)."""
    (c3, c2, c1, c0), (a6, a4, a2, a1, a0) = cubic, sextic
    g = a6 ** (1 / 3)
    under_zero, under_cubic, over = negative(x + 4.0, x + 1.95, 3.0 - x)
    x2 = x.square()
    t = x2 * g
    tail, head = products([x2, t], [x * c3 + c2, t + a4 / g**2])
    left, right = tail + x * c1 + c0, t * (head + a2 / g) + x * a1 + a0
    parts = products([left, right, x], [under_cubic - under_zero, 1 - under_cubic - over, over])
    return parts[0] + parts[1] + parts[2]


def gelu_tanh(x: Shared) -> Shared:
    """GeLU's tanh form with CrypTen's tanh: how MPCFormer and SecFormer have GeLU on CrypTen."""
    inner = (x + x.square() * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * 0.5 * (inner.tanh() + 1)


def gelu_erf(x: Shared) -> Shared:
    """GeLU with CrypTen's erf, eight terms of its Taylor series."""
    return x * 0.5 * ((x * math.sqrt(0.5)).erf() + 1)


def softmax_secformer(scores: Shared, mask: Shared, *, deflation: float, steps: int) -> Shared:
    """2Quad divided by Goldschmidt's iteration; its deflation is taken off last, where fewest bits are lost."""
    numerators = ((scores + 5) * mask).square()
    y = numerators.sum(-1, keepdim=True) * (1 / deflation)
    w = 2 - y
    p, y = w, y * w
    for step in range(1, steps):
        w = 2 - y
        p, y = products([p, y], [w, w]) if step < steps - 1 else (p * w, y)
    return numerators * p * (1 / deflation)


def softmax_puma(scores: Shared, mask: Shared) -> Shared:
    """(1 + x/32)^32 from -14 on, x less its row's maximum; the reciprocal is CrypTen's."""
    x = _masked(scores, mask)
    x = x - maximum(x)
    [under] = negative(x + 14.0)
    power = (x * (1 / 32) + 1) * (1 - under)
    for _ in range(5):
        power = power.square()
    with cfg.temp_override({"functions.reciprocal_all_pos": True}):
        return power * power.sum(-1, keepdim=True).reciprocal()


def maximum(x: Shared) -> Shared:
    """The greatest of each row, by halves: CrypTen's own also finds where it is, at more than twice the bytes."""
    while (count := x.size(-1)) > 1:
        half = count // 2
        low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        x = crypten.cat([low + (high - low).relu(), rest], dim=-1) if count % 2 else low + (high - low).relu()
    return x


def softmax_default(scores: Shared, mask: Shared) -> Shared:
    """CrypTen's softmax."""
    return _masked(scores, mask).softmax(-1)


def _masked(scores: Shared, mask: Shared) -> Shared:
    return scores + (mask - 1) * MASK_OFFSET


def rsqrt_secformer(q: Shared, *, deflation: float, steps: int) -> Shared:
    """Goldschmidt's inverse square root with deflation."""
    y, p = q * (1 / deflation), None
    for step in range(steps):
        w = (3 - y) * 0.5
        if step == steps - 1:
            p = w if p is None else p * w
        elif p is None:
            p, y = w, y * w.square()
        else:
            p, square = products([p, w], [w, w])
            y = y * square
    return p * deflation**-0.5


def rsqrt_default(q: Shared) -> Shared:
    """CrypTen's inverse square root."""
    return q.inv_sqrt()


FUNCTIONS: dict[str, Callable[..., Shared]] = {
    "gelu secformer": gelu_secformer,
    "gelu puma": gelu_puma,
    "gelu tanh": gelu_tanh,
    "gelu erf": gelu_erf,
    "softmax secformer": softmax_secformer,
    "softmax puma": softmax_puma,
    "softmax default": softmax_default,
    "rsqrt secformer": rsqrt_secformer,
    "rsqrt default": rsqrt_default,
}
