"""What an owner publishes: an encoder that answers, or a decoder that generates."""

from __future__ import annotations

from typing import Any

from secformer_jax.cluster.decoder_deployment import KIND, DecoderDeployment
from secformer_jax.cluster.deployment import Deployment

Published = Deployment | DecoderDeployment


def read_description(values: Any) -> Published:
    """The inverse of both kinds' `to_json`.

    Raises:
        UserError: a description of neither.
    """
    decodes = isinstance(values, dict) and values.get("kind") == KIND
    return DecoderDeployment.from_json(values) if decodes else Deployment.from_json(values)
