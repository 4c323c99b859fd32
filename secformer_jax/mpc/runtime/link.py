"""SPU's link between the computing parties: brpc over TLS, pinned to the peers' certificates of this session.

SPU's server takes plaintext as well as TLS on its port, and checks a certificate's chain and not its name. So it
listens on a Unix socket, and a gate in front of it passes on TLS alone; and the only certificates that are trusted are
those that the peers made for this session and sent over the control channel, which knows them by name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spu import libspu

PAYLOAD_BYTES = 1 << 25
"""Largest message that is not cut into pieces: with SPU's own 1 MiB each piece waits for an answer."""
RECEIVE_SECONDS = 120
"""How long a party may compute between two messages. That a peer has died is noticed elsewhere, and sooner."""
_HELLO = 6
_CHUNK = 1 << 20
_BACKLOG = 64


@dataclass(frozen=True)
class LinkTls:
    """PEM files: this party's certificate for the session and its key, and the peers' certificates, all in one."""

    certificate: Path
    key: Path
    peers: Path


def connect(
    session: str, addresses: Mapping[str, str], name: str, tls: LinkTls, folder: Path, *, connect_seconds: int = 60
) -> libspu.link.Context:
    """A link to the other parties.

    Args:
        session: a name that nobody else can guess: messages carry it.
        addresses: host:port by party, in the order of ranks.
        name: this party.
        tls: see LinkTls.
        folder: for the socket; nobody else may enter it.
        connect_seconds: how long to wait for the others.

    Raises:
        RuntimeError: a peer did not come.
    """
    description = libspu.link.Desc()
    description.id = session
    description.connect_retry_interval_ms = 250
    description.connect_retry_times = connect_seconds * 4
    description.recv_timeout_ms = RECEIVE_SECONDS * 1000
    # Longer than the wait for a message: with SPU's own settings a late answer can end the process.
    description.http_timeout_ms = 2 * RECEIVE_SECONDS * 1000
    description.http_max_payload_size = PAYLOAD_BYTES
    description.enable_ssl = True
    for options, peers in ((description.client_ssl_opts, tls.peers), (description.server_ssl_opts, tls.peers)):
        options.cert.certificate_path, options.cert.private_key_path = str(tls.certificate), str(tls.key)
        # Depth 0 would mean no check at all.
        options.verify.ca_file_path, options.verify.verify_depth = str(peers), 1
    path = folder / "link.sock"
    for party, address in addresses.items():
        description.add_party(party, f"unix:{path}" if party == name else _numeric(address))
    open_gate(addresses[name], path)
    return libspu.link.create_brpc(description, list(addresses).index(name))


def _numeric(address: str) -> str:
    """The address with its host as a number: SPU's link does not look up every kind of name."""
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    number = str(found[4][0])
    return f"[{number}]:{port}" if found[0] == socket.AF_INET6 else f"{number}:{port}"


def open_gate(address: str, path: Path) -> socket.socket:
    """Listen at host:port and pass connections that begin with a TLS handshake to a Unix socket; others are closed."""
    host, _, port = address.rpartition(":")
    listener = socket.create_server(
        (host.strip("[]"), int(port)), family=socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    )
    threading.Thread(target=_accept, args=(listener, path), daemon=True).start()
    return listener


def _accept(listener: socket.socket, path: Path) -> None:
    free = threading.BoundedSemaphore(_BACKLOG)
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            if free.acquire(blocking=False):
                threading.Thread(target=_pass, args=(connection, path, free), daemon=True).start()
            else:
                connection.close()


def _pass(outside: socket.socket, path: Path, free: threading.BoundedSemaphore) -> None:
    try:
        with outside, socket.socket(socket.AF_UNIX) as inside:
            outside.settimeout(10)
            hello = outside.recv(_HELLO, socket.MSG_PEEK | socket.MSG_WAITALL)
            # A record of type handshake (22), and in it a ClientHello (1): what SPU's server takes for TLS, too.
            if len(hello) < _HELLO or hello[0] != 22 or hello[1] != 3 or hello[5] != 1:
                return
            outside.settimeout(None)
            outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            inside.connect(str(path))
            back = threading.Thread(target=_copy, args=(inside, outside), daemon=True)
            back.start()
            _copy(outside, inside)
            back.join()
    except OSError:
        return
    finally:
        free.release()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """All bytes from one socket to another, inside the kernel."""
    read, write = os.pipe()
    try:
        while count := os.splice(source.fileno(), write, _CHUNK):
            while count:
                count -= os.splice(read, sink.fileno(), count)
    except OSError:
        pass
    finally:
        os.close(read)
        os.close(write)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
