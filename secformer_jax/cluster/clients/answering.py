"""A cluster as one who answers batches of texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from secformer_jax.cluster.clients.client import Answer, ClusterClient
from secformer_jax.cluster.deployment import Deployment
from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.text import Encoded


class ClusterAnswering:
    """See `texts.Answering`.

    Args:
        client: a client that has been entered.
        served: what the cluster serves.
        head: what it has to answer with; None for whatever it does.
        noted: is told of each answer, with what it cost.

    Raises:
        UserError: it answers with something else.
    """

    def __init__(
        self,
        client: ClusterClient,
        served: Deployment,
        head: str | None = None,
        noted: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        if head not in (None, served.head):
            raise UserError(
                f"the published model answers with {served.head}, and {head} was asked for: it has to be published "
                f"with --head {head}"
            )
        self._client, self._served, self._noted = client, served, noted

    @property
    def config(self) -> Architecture:
        """The published model's."""
        return self._served.config

    @property
    def head(self) -> str:
        """What it answers with."""
        return self._served.head

    @property
    def labels_alone(self) -> bool:
        """Whether its owner lets clients have no logits."""
        return self._served.reveal.label

    def most(self, length: int) -> int:
        """What one run of the cluster takes."""
        return self._client.most(self._served, length)

    async def logits(self, encoded: Encoded) -> np.ndarray:
        """See `texts.Answering`.

        Raises:
            UserError: as `ClusterClient.infer`.
        """
        found = await self._client.infer(encoded)
        self._noted(found)
        return found.logits
