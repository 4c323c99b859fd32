"""Who computes what for a request: statements that the servers sign, and that a client checks before it sends shares.

A statement has the session, the published model, the certificates of the link between the servers, and the program of
this size where it is compiled; a receipt, with the answer, the piece of the dealer's material and the program that the
request has used, and the digest of the shares that the server got. Each is signed by the server's own key. Together
they show later who has served what; servers that say different things are not sent anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from secformer_jax.cluster.party.identity import Signer
from secformer_jax.cluster.wire.message import Message
from secformer_jax.cluster.wire.tls import PeerError
from secformer_jax.errors import UserError

STATEMENT, RECEIPT = "secformer statement 1", "secformer receipt 1"
_COMMON = ("session", "model", "link", "program", "piece")
Facts = dict[str, Any]


def signed(signer: Signer, kind: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts with their signature, as JSON values."""
    text = json.dumps({"kind": kind, **facts}, sort_keys=True)
    return {"text": text, "proof": signer.sign(text.encode())}


def read(signer: Signer, party: str, kind: str, found: Any, expected: Mapping[str, Any]) -> Facts:
    """What a party has signed.

    Args:
        signer: of who reads; it knows the CA.
        party: who has to have signed it.
        kind: `STATEMENT` or `RECEIPT`.
        found: as `signed` gives it.
        expected: facts that are known already.

    Raises:
        UserError: signed by somebody else, or not what is expected.
    """
    try:
        signer.verify(party, found["text"].encode(), found["proof"])
        facts = json.loads(found["text"])
        wrong = [key for key, value in {"kind": kind, "party": party, **expected}.items() if facts[key] != value]
    except (PeerError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{party} has signed no statement that can be used ({error})") from None
    if wrong:
        raise UserError(f"{party} has signed another {', '.join(wrong)} than was asked for: nothing is sent to it")
    return facts


def agree(statements: Sequence[Facts], parties: Sequence[str]) -> None:
    """Refuse servers that say different things; what one does not know yet, another may.

    Raises:
        UserError: they do.
    """
    for key in _COMMON:
        said = {json.dumps(each[key]) for each in statements if each.get(key) is not None}
        if len(said) > 1:
            raise UserError(
                f"{' and '.join(parties)} say different things of the {key}: try again, or ask who runs them"
            )


def digest(message: Message) -> str:
    """SHA-256 of the shares that a message carries."""
    sha = hashlib.sha256()
    for chunk in message.chunks:
        sha.update(chunk)
    return sha.hexdigest()
