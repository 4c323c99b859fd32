"""A whole cluster on this machine's loopback, each role a process: for try-outs, tests and measurements."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from secformer_jax.cluster import certs, config
from secformer_jax.cluster.config import DEALER, INSECURE_FLAG
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime import layout

_STOP_SECONDS = 60


class LocalCluster:
    """Starts and stops the servers; to be entered with `with`.

    Args:
        folder: for the cluster file, certificates, state and logs.
        protocol: the name or path of a configuration, whose addresses are replaced by free ports.
        clients: names of clients.
        insecure: allow SEMI2K whose first party knows all masks.
        runtime: what to change in SPU's runtime_config.
        options: more keys of the cluster file's "secformer".
        python: the command that starts Python.
    """

    def __init__(
        self,
        folder: Path,
        protocol: str = "2pc_semi2k_dealer",
        *,
        clients: Sequence[str] = ("client",),
        insecure: bool = False,
        runtime: dict | None = None,
        options: dict | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        self.folder, self._insecure, self._python = folder, insecure, tuple(python)
        folder.mkdir(parents=True, exist_ok=True)
        document = json.loads(layout.read(protocol).path.read_text())
        device = document["devices"]["SPU"]["config"]
        parties = device["node_ids"]
        ports = [f"127.0.0.1:{port}" for port in free_ports(2 * len(parties) + 1)]
        document["nodes"] = dict(zip(parties, ports, strict=False))
        device["spu_internal_addrs"] = ports[len(parties) : -1]
        device["runtime_config"].update(runtime or {})
        dealer = {"dealer": ports[-1]} if "dealer" in document.get("secformer", {}) else {}
        document["secformer"] = {**dealer, "clients": list(clients), "tls": "tls", **(options or {})}
        self.path = folder / "cluster.json"
        self.path.write_text(json.dumps(document, indent=2))
        self.cluster = config.load(self.path, insecure_trusted_first_party=insecure)
        certs.write(self.cluster, folder / "tls")
        self.processes: dict[str, subprocess.Popen] = {}

    @property
    def servers(self) -> tuple[str, ...]:
        """The dealer, where there is one, and the parties."""
        return (*([DEALER] if self.cluster.dealer else []), *self.cluster.parties)

    @property
    def ports(self) -> set[int]:
        """Where its servers listen."""
        dealer = [self.cluster.dealer] if self.cluster.dealer else []
        addresses = [*self.cluster.control.values(), *self.cluster.links.values(), *dealer]
        return {address.port for address in addresses}

    def __enter__(self) -> LocalCluster:
        for name in self.servers:
            self.start(name)
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def log(self, name: str) -> Path:
        """Where a server's standard error goes."""
        return self.folder / f"{name}.log"

    def file_of(self, name: str) -> Path:
        """The cluster file that a server reads; one that others can't reach directly may have another than they."""
        return self.path

    def start(self, name: str) -> None:
        """Start one server."""
        role = ["dealer"] if name == DEALER else ["party", "--name", name]
        flags = [INSECURE_FLAG] if self._insecure and name != DEALER else []
        command = [*self._python, "-m", "secformer_jax", *role, "--cluster", str(self.file_of(name)), *flags]
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )

    def kill(self, name: str) -> None:
        """End a server without warning."""
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self) -> None:
        """Stop all of them in order, and those by force that don't."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + _STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.1, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def check(self) -> None:
        """Refuse when a server has ended.

        Raises:
            UserError: with the last line that it wrote.
        """
        for name, process in self.processes.items():
            if process.poll() is not None:
                lines = self.log(name).read_text(errors="replace").splitlines()
                raise UserError(f"{name} ended with status {process.returncode}: {lines[-1] if lines else 'no word'}")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
