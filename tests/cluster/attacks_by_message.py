"""What a client that means harm sends: inputs that are no text, sizes that lie, no message at all."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable

import numpy as np
from mallory import Attack, Mallory, into

from secformer_jax.cluster.wire.message import MAGIC, PREFIX, VERSION, Message
from secformer_jax.cluster.wire.paths import STATEMENT_PATH

ATTACKS: dict[str, Attack] = {}
attack = into(ATTACKS)


def listed(change: Callable[[dict], object]) -> Attack:
    """An attack that changes how one share is described."""

    def apply(message: Message) -> None:
        change(message.fields["shares"][0])

    async def run(mallory: Mallory) -> None:
        await mallory.changed(apply)

    return run


ATTACKS |= {
    "no_components": listed(lambda entry: entry.update(components=[])),
    "surplus_components": listed(lambda entry: entry["components"].append("seed")),
    "unknown_component": listed(lambda entry: entry.update(components=["pickle"])),
    "components_no_list": listed(lambda entry: entry.update(components="ring")),
    "seed_for_ring": listed(lambda entry: entry.update(components=["seed"])),
    "another_dtype": listed(lambda entry: entry.update(dtype="float32")),
    "unknown_dtype": listed(lambda entry: entry.update(dtype="O")),
    "another_name": listed(lambda entry: entry.update(name="material0")),
    "name_of_a_weight": listed(lambda entry: entry.update(name="weights['opened']")),
    "more_bits": listed(lambda entry: entry.update(bits=64)),
    "no_bits": listed(lambda entry: entry.pop("bits")),
    "flat_shape": listed(lambda entry: entry.update(shape=[entry["shape"][0] * entry["shape"][1] * entry["shape"][2]])),
    "true_for_one": listed(lambda entry: entry.update(shape=[True, *entry["shape"][1:]])),
    "broken_numbers": listed(lambda entry: entry.update(shape=[float(size) for size in entry["shape"]])),
    "bits_with_a_point": listed(lambda entry: entry.update(bits=float(entry["bits"]))),
    "negative_shape": listed(lambda entry: entry.update(shape=[-1, *entry["shape"][1:]])),
    "shape_of_100000_numbers": listed(lambda entry: entry.update(shape=[3] * 100_000)),
    "shape_of_huge_numbers": listed(lambda entry: entry.update(shape=[10**4000] * 8)),
    "nested_entry": listed(lambda entry: entry.update(more={"a": [{}] * 100})),
}


def no_texts(mallory: Mallory) -> dict[str, list[np.ndarray]]:
    """Inputs of the right shapes that no text has."""
    top = 1 << (mallory.inputs.specs(*mallory.encoded.input_ids.shape)[0].bits - 1)

    def but(index: int, change: Callable[[np.ndarray], None]) -> list[np.ndarray]:
        arrays = [array.copy() for array in mallory.inputs.arrays(mallory.encoded)]
        # Of the first vector of the first text.
        change(arrays[index].reshape(-1, arrays[index].shape[-1])[0])
        return arrays

    def add(*pairs: tuple[int, int]) -> Callable[[np.ndarray], None]:
        def change(row: np.ndarray) -> None:
            for place, value in pairs:
                row[place] += value

        return change

    return {
        "zeros": but(0, lambda row: row.fill(0)),
        "two words": but(0, add((3, 1))),
        "a word and its opposite": but(0, add((3, 1), (4, -1))),
        "half a ring": but(0, add((3, top), (4, top))),
        "no token type": but(0, add((-1, 1))),
        "no length": but(1, lambda row: row.fill(0)),
        "two lengths": but(1, add((0, 1))),
        "a negative length": but(1, add((0, 1), (1, -1))),
        "half of the ring's lengths": but(1, add((0, -(1 << 63)), (1, -(1 << 63)))),
    }


@attack
async def inputs_that_are_no_text(mallory: Mallory) -> None:
    for inputs in no_texts(mallory).values():
        assert 200 not in await mallory.to_all(mallory.good(inputs))


@attack
async def proofs_of_another_input(mallory: Mallory) -> None:
    messages, others = mallory.good(no_texts(mallory)["two words"]), mallory.good()
    for message, other in zip(messages, others, strict=True):
        inputs = [name for entry in message.fields["shares"] for name in [entry["name"]] * len(entry["components"])]
        message.chunks = [
            mine if name.startswith("input") else good
            for name, mine, good in zip(inputs, message.chunks, other.chunks, strict=True)
        ]
    assert 200 not in await mallory.to_all(messages)


@attack
async def questions_that_are_none(mallory: Mallory) -> None:
    good = {"nonce": "0" * 32, "deployment": mallory.deployment, "rows": 1, "length": 16}
    changes = (
        {"rows": 10**18},
        {"length": 7},
        {"nonce": "x" * 100_000},
        {"nonce": None},
        {"deployment": "x"},
        {"rows": True},
    )
    bodies = [json.dumps(good | change).encode() for change in changes]
    for body in (*bodies, b"[" * 100_000, b"[" * 3000, b"{}", b"", b"null", b"1" * 4000, secrets.token_bytes(4000)):
        assert await mallory.post("S0", body, STATEMENT_PATH) == 400
    assert await mallory.post("S0", json.dumps(good).encode(), STATEMENT_PATH) == 200


@attack
async def no_shares(mallory: Mallory) -> None:
    await mallory.changed(lambda message: message.fields.pop("shares"))


@attack
async def no_input_at_all(mallory: Mallory) -> None:
    rows = [Message("infer", mallory.fields(shares=[]))] * len(mallory.cluster.parties)
    await mallory.to_all(rows)


@attack
async def sizes_that_lie(mallory: Mallory) -> None:
    def change(message: Message) -> None:
        message.chunks = [*message.chunks, b"x"]

    await mallory.changed(change)


@attack
async def another_kind(mallory: Mallory) -> None:
    for kind in ("result", "material", "start", "x" * 5000):
        await mallory.to_all([Message(kind, m.fields, m.chunks) for m in mallory.good()])


@attack
async def numbers_of_requests(mallory: Mallory) -> None:
    for number in ("", "x" * 32, "../" * 10 + "ab", "A" * 32, "0" * 10_000, 7, None, ["a"], {"a": 1}):
        await mallory.to_all(mallory.good(request=number))


@attack
async def sizes_that_are_not_served(mallory: Mallory) -> None:
    for rows, length in ((0, 16), (-1, 16), (1, 7), (1, 1 << 40), (1 << 62, 16), (True, 16), (1.5, 16), ("1", 16)):
        await mallory.to_all(mallory.good(rows=rows, length=length))


@attack
async def another_model(mallory: Mallory) -> None:
    for name in ("0" * 32, "", "../../etc/passwd", None):
        await mallory.to_all(mallory.good(deployment=name))


@attack
async def deep_json(mallory: Mallory) -> None:
    for text in (b"[" * 1_000_000, b'{"a":' * 3000, b"[" * 10_000, b"1" * 10_000, b"\xff" * 1000, b"null", b"{}"):
        prefix = PREFIX.pack(MAGIC, VERSION, len(text), 0)
        await mallory.post("S0", prefix + text)


@attack
async def a_long_header(mallory: Mallory) -> None:
    text = json.dumps({"kind": "infer", "fields": mallory.fields(), "sizes": list(range(200_000))}).encode()
    await mallory.post("S0", PREFIX.pack(MAGIC, VERSION, len(text), 0) + text)
    await mallory.post("S0", PREFIX.pack(MAGIC, VERSION, (1 << 32) - 1, (1 << 64) - 1))


@attack
async def garbage(mallory: Mallory) -> None:
    for size in (0, 1, 17, 18, 19, 100_000, 3_000_000):
        await mallory.post("S0", secrets.token_bytes(size))
    await mallory.post("S1", MAGIC + secrets.token_bytes(1000))
