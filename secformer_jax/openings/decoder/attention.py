"""Causal attention over a cache whose keys and values are opened once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.rotary import rotated
from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import Weight, WeightProducts
from secformer_jax.mpc.primitives.scaled import PairProduct
from secformer_jax.openings.block import Block, project, row_series
from secformer_jax.openings.decoder import scales
from secformer_jax.openings.decoder.constants import AttentionPlan
from secformer_jax.openings.decoder.known import Known, LayerCache, Rows
from secformer_jax.openings.decoder.norm import Normed
from secformer_jax.openings.decoder.softmax import mean_over_keys, numerators

Sides = dict[str, Weight]
"""Keys or values: the fixed prefix's, where there is one, and the cache's."""


class Attention(Block):
    """Attention and the residual sum; also the cache with the new tokens. 7 messages, and 3 for each squaring.

    Attributes:
        config: the model.
        plan: the constants.
        prefix: how many keys the owner published.
    """

    config: DecoderArchitecture
    plan: AttentionPlan
    prefix: int

    @nn.compact
    def __call__(self, x: Fixed, known: Known, cache: LayerCache) -> tuple[Fixed, LayerCache]:
        """x (new, hidden) of the residual stream."""
        c, plan = self.config, self.plan
        heads = c.num_attention_heads + 2 * c.num_key_value_heads
        parts = self._heads(Normed(plan.norm, heads * c.head_dim, c.attention_bias, name="read")(x))
        query, key, value = self._lifted(parts, known)
        queries = (*query.shape[:1], c.queries_per_key * query.shape[2], c.head_dim)
        query = query.reshape(*queries)
        score_masks = self._products("keys", "scores", query.shape, plan.score_width, cache.keys)
        query_e, key_e, value_e = open_together(
            [
                query.masked(score_masks.a, plan.score_width),
                Masked(key.ring - cache.keys.new_masks(known.place), plan.score_width),
                Masked(value.ring - cache.values.new_masks(known.place), plan.sums_width),
            ]
        )
        cache = LayerCache(
            cache.keys.filled(known.place, key.ring, key_e), cache.values.filled(known.place, value.ring, value_e)
        )
        sides = self._sides("keys", cache.keys)
        scores = jnp.concatenate([score_masks.times(name, query_e, side) for name, side in sides.items()], axis=-1)
        shape = (c.num_key_value_heads, c.queries_per_key, x.shape[0], scores.shape[-1])
        with jax.named_scope("softmax"):
            read = Fixed(scores.reshape(shape), query.bits + key.bits, plan.score_width)
            weights = numerators(self, read, known, plan.softmax)
        context = self._context(weights, known, cache.values)
        # (key_value_heads, queries_per_key, new, head_dim) to (new, hidden).
        merged = context.ring.transpose(2, 0, 1, 3).reshape(x.shape[0], -1)
        out = project(self, context.replace(ring=merged), c.hidden_size, scales.STREAM)
        if c.attention_bias:
            out = out.replace(ring=out.ring + self.weight("out_bias", c.hidden_size).ring)
        return x + out, cache

    def _heads(self, read: Fixed) -> dict[str, Fixed]:
        """Queries (key_value_heads, queries_per_key, new, head_dim); keys and values, of one query for each key."""
        c, parts, start = self.config, {}, 0
        counts = c.num_attention_heads, c.num_key_value_heads, c.num_key_value_heads
        for name, count in zip(("query", "key", "value"), counts, strict=True):
            part = read.ring[:, start : start + count * c.head_dim].reshape(-1, count, c.head_dim)
            parts[name] = read.replace(ring=part.transpose(1, 0, 2))
            start += count * c.head_dim
        query = parts["query"]
        parts["query"] = query.reshape(c.num_key_value_heads, c.queries_per_key, *query.shape[1:])
        return parts

    def _lifted(self, parts: dict[str, Fixed], known: Known) -> list[Fixed]:
        """Turned by their positions, and in the rings that they are multiplied in: one message."""
        bits = {"query": scales.QUERY, "key": scales.KEY, "value": scales.VALUE}
        rings = {"query": self.plan.score_width, "key": self.plan.score_width, "value": self.plan.sums_width}
        pairs, before = {}, {}
        for name, part in parts.items():
            if self.config.rotary is not None and name != "value":
                part = part.rounded(scales.TURNED)
                turned = rotated(part.ring, known.cosines, known.sines)
                part = Fixed(turned, part.bits + scales.ANGLE, part.width)
            before[name] = part = part.rounded(bits[name]).within(self.plan.turned_width)
            make = functools.partial(TruncationPair.abstract, part.shape, 0, part.width, rings[name])
            pairs[name] = self.material(f"{name}_pair", make)
        openings = open_together([pairs[name].masked(before[name]) for name in parts])
        return [pairs[name].finish(opening, before[name]) for name, opening in zip(parts, openings, strict=True)]

    def _sides(self, name: str, rows: Rows) -> Sides:
        own = {"cache": Weight(rows.ring, rows.opened)}
        if not self.prefix:
            return own
        c = self.config
        return {"prefix": self.weight(f"prefix_{name}", c.num_key_value_heads, self.prefix, c.head_dim)} | own

    def _products(self, name: str, kind: str, shape: tuple[int, ...], width: int, rows: Rows) -> WeightProducts:
        """Masks of what meets keys or values of the prefix and of the cache."""
        sides = {"cache": (kind, self.mask_name(name), rows.ring.shape)}
        if self.prefix:
            fixed = (rows.ring.shape[0], self.prefix, rows.ring.shape[2])
            sides["prefix"] = (kind, self.mask_name(f"prefix_{name}"), fixed)
        return self.material(f"{name}_products", lambda: WeightProducts.abstract(shape, width, **sides))

    def _context(self, weights: Fixed, known: Known, rows: Rows) -> Fixed:
        """The weighed values over the sums of their weights, modulo 2^(the stream's width): 2 messages."""
        plan, softmax = self.plan, self.plan.softmax
        mean = mean_over_keys(weights, known)
        series = self.material(
            "series", lambda: row_series(softmax.reciprocal, mean.shape, mean.bits, softmax.reciprocal_bits)
        )
        weights = weights.rounded(scales.NUMERATOR).within(plan.sums_width)
        # Rounding may make a unit of 0, and an empty row of the cache is any number.
        weights = weights.replace(ring=weights.ring * known.visible)
        flat = weights.reshape(weights.shape[0], -1, weights.shape[-1])
        sides, start, masked, masks = self._sides("values", rows), 0, [], {}
        for name, side in sides.items():
            stop = start + side.ring.shape[1]
            part = flat.replace(ring=flat.ring[..., start:stop])
            mask = self.mask_name("values" if name == "cache" else "prefix_values")
            of = "context", mask, side.ring.shape
            make = functools.partial(WeightProducts.abstract, part.shape, plan.sums_width, of=of)
            masks[name] = self.material(f"{name}_context", make)
            masked.append(part.masked(masks[name].a, plan.sums_width))
            start = stop
        *openings, mean_opening = open_together([*masked, series.masked(mean)])
        products = [masks[name].times("of", e, side) for (name, side), e in zip(sides.items(), openings, strict=True)]
        sums = Fixed(functools.reduce(jnp.add, products), weights.bits + scales.VALUE, plan.sums_width)
        sums = sums.reshape(*weights.shape[:-1], sums.shape[-1])
        sums = Fixed(sums.ring * known.inverse_count[:, None], sums.bits + scales.INVERSE_COUNT, sums.width)
        sums = sums.rounded(scales.SUMS)
        inverse = series.finish(mean_opening)
        result = softmax.context_width
        division = self.material(
            "division",
            lambda: PairProduct.abstract(
                TruncationPair.abstract(sums.shape, 0, sums.width, result),
                TruncationPair.abstract(inverse.shape, inverse.bits - softmax.reciprocal_bits, inverse.width, result),
            ),
        )
        openings = open_together([division.x.masked(sums), division.y.masked(inverse)])
        return division.times(sums, openings[0], inverse, openings[1]).rounded(scales.CONTEXT)
