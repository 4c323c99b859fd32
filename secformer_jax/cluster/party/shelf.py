"""What a server keeps on disk of what was published: sealed shares, and the descriptions beside them."""

from __future__ import annotations

import json
from pathlib import Path

from secformer_jax.cluster import store
from secformer_jax.cluster.config import TlsFiles
from secformer_jax.cluster.published import Published, read_description
from secformer_jax.errors import UserError


class Shelf:
    """One party's.

    Args:
        folder: made when missing.
        name: of the party.
        files: its TLS files, beside which the sealing key lies.
    """

    def __init__(self, folder: Path, name: str, files: TlsFiles) -> None:
        self._folder, self._name, self.seal = folder, name, files.key.with_name(f"{name}.seal.key")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def weights(self, deployment: str) -> Path:
        """Where the sealed shares of a deployment lie."""
        return self._folder / f"{deployment}.sealed"

    def deployment(self, name: str) -> Published:
        """What was published under a name.

        Raises:
            UserError: nothing was.
        """
        if not self.weights(name).is_file():
            raise UserError(f"{self._name} has no shares of the published model: publish it again")
        return read_description(json.loads(self._description(name).read_text()))

    def writer(self, deployment: Published) -> store.SealedWriter:
        """For the shares of a publication; the description is kept beside them."""
        path = self._description(deployment.name)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(deployment.to_json()))
        partial.replace(path)
        return store.SealedWriter(self.weights(deployment.name), store.sealing_key(self.seal), deployment.name)

    def forget_before(self, deployment: str) -> None:
        """Remove what was published earlier than this; what came later waits to be served."""
        published = self.weights(deployment).stat().st_mtime
        for path in self._folder.glob("*.sealed"):
            if path.stat().st_mtime < published:
                path.unlink()
                path.with_name(path.name + ".next").unlink(missing_ok=True)
                self._description(path.stem).unlink(missing_ok=True)

    def _description(self, deployment: str) -> Path:
        return self._folder / f"{deployment}.json"
