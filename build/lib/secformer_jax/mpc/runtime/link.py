"""SPU's link between the computing parties: brpc over TLS, pinned to the peers' certificates of this session.

SPU's server takes plaintext as well as TLS on its port, and checks a certificate's chain and not its name. So it
listens on a Unix socket, and a gate in front of it passes on TLS alone; and the only certificates that are trusted are
those that the peers made for this session and sent over the control channel, which knows them by name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spu import libspu

PAYLOAD_BYTES = 1 << 25
"""Largest message that is not cut into pieces: with SPU's own 1 MiB each piece waits for an answer."""
RECEIVE_SECONDS = 120
"""How long a party may compute between two messages. That a peer has died is noticed elsewhere, and sooner."""
_HELLO = 6
_CHUNK = 1 << 20
_PENDING = 64
_HELLO_SECONDS, _HANDSHAKE_SECONDS = 10.0, 90.0
"""How long a connection may take for its first bytes, and until it is through: a peer may wait for a third party."""
_HANDSHAKE_BYTES = 4096
"""More than a client sends before it has shown its certificate, and less than a party's first message to another."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class LinkTls:
    """PEM files: this party's certificate for the session and its key, and the peers' certificates, all in one."""

    certificate: Path
    key: Path
    peers: Path


def connect(
    session: str,
    addresses: Mapping[str, str],
    name: str,
    tls: LinkTls,
    folder: Path,
    *,
    more_sources: Sequence[str] = (),
    connect_seconds: int = 60,
) -> libspu.link.Context:
    """A link to the other parties.

    Args:
        session: a name that nobody else can guess: messages carry it.
        addresses: host:port by party, in the order of ranks.
        name: this party.
        tls: see LinkTls.
        folder: for the socket; nobody else may enter it.
        more_sources: networks that peers connect from, beside the addresses at which they are reached.
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
    Gate(addresses[name], path, sources((a for party, a in addresses.items() if party != name), more_sources))
    return libspu.link.create_brpc(description, list(addresses).index(name))


def _numeric(address: str) -> str:
    """The address with its host as a number: SPU's link does not look up every kind of name."""
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    number = str(found[4][0])
    return f"[{number}]:{port}" if found[0] == socket.AF_INET6 else f"{number}:{port}"


def sources(addresses: Iterable[str], more: Iterable[str] = ()) -> list[Network]:
    """Where connections may come from: the hosts of these addresses, and more networks.

    Args:
        addresses: host:port of the peers.
        more: networks as text (CIDR), for peers behind other addresses than those at which they are reached.
    """
    hosts = [address.rpartition(":")[0].strip("[]") for address in addresses]
    found = {str(info[4][0]) for host in hosts for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return [ipaddress.ip_network(each) for each in (*sorted(found), *more)]


class Gate:
    """Listens at host:port and passes connections that begin with a TLS handshake to a Unix socket.

    Connections from elsewhere than the peers are closed at once; of those whose handshake is not through only so many
    are kept, and a new one takes the place of the oldest.

    Args:
        address: host:port.
        path: of the Unix socket.
        allowed: where connections may come from; None: from everywhere.
    """

    def __init__(self, address: str, path: Path, allowed: Sequence[Network] | None = None) -> None:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        self._listener = socket.create_server((host.strip("[]"), int(port)), family=family)
        self._path, self._allowed = path, allowed
        self._pending: OrderedDict[socket.socket, None] = OrderedDict()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._listener.getsockname()[:2]

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, source = self._listener.accept()
                if not self._is_allowed(str(source[0])):
                    connection.close()
                    continue
                with self._lock:
                    self._pending[connection] = None
                    oldest = self._pending.popitem(last=False)[0] if len(self._pending) > _PENDING else None
                if oldest is not None:
                    _shut(oldest)
                threading.Thread(target=self._pass, args=(connection,), daemon=True).start()

    def _is_allowed(self, source: str) -> bool:
        address = ipaddress.ip_address(source.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return self._allowed is None or any(address in network for network in self._allowed)

    def _pass(self, outside: socket.socket) -> None:
        try:
            with outside, socket.socket(socket.AF_UNIX) as inside:
                outside.settimeout(_HELLO_SECONDS)
                hello = outside.recv(_HELLO, socket.MSG_PEEK | socket.MSG_WAITALL)
                # A record of type handshake (22), and in it a ClientHello (1): what SPU's server takes for TLS, too.
                if len(hello) < _HELLO or hello[0] != 22 or hello[1] != 3 or hello[5] != 1:
                    return
                outside.settimeout(None)
                outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                inside.connect(str(self._path))
                late = threading.Timer(_HANDSHAKE_SECONDS, _shut, (outside,))
                late.daemon = True
                late.start()
                back = threading.Thread(target=_copy, args=(inside, outside), daemon=True)
                back.start()

                def through() -> None:
                    late.cancel()
                    with self._lock:
                        self._pending.pop(outside, None)

                _copy(outside, inside, _HANDSHAKE_BYTES, through)
                back.join()
        except OSError:
            return
        finally:
            with self._lock:
                self._pending.pop(outside, None)


def _copy(source: socket.socket, sink: socket.socket, enough: int = 0, then: Callable[[], None] | None = None) -> None:
    """All bytes from one socket to another, inside the kernel; calls `then` when more than enough have passed."""
    read, write = os.pipe()
    passed = 0
    try:
        while count := os.splice(source.fileno(), write, _CHUNK):
            passed += count
            if then is not None and passed > enough:
                then()
                then = None
            while count:
                count -= os.splice(read, sink.fileno(), count)
    except OSError:
        pass
    finally:
        os.close(read)
        os.close(write)
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
