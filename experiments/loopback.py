"""Every byte that travels over the loopback of this machine, for cluster.py; needs the right to open packet sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable

ETH_P_ALL = 3
_MARK = b"secformer capture: this line is in plaintext"


class Capture:
    """Records while it is entered: the bytes of each TCP connection and way, in the order of arrival.

    Args:
        ports: of the servers; other connections of this machine are left out.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = {port.to_bytes(2, "big") for port in ports}

    def __enter__(self) -> Capture:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 28)  # SO_RCVBUFFORCE
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.5)
        self._streams: dict[bytes, bytearray] = {}
        self._going = True
        self._thread = threading.Thread(target=self._record, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._going = False
        self._thread.join()
        self._socket.close()

    def _record(self) -> None:
        while self._going:
            try:
                packet = self._socket.recv(1 << 18)
            except TimeoutError:
                continue
            # Ethernet, IPv4 without options beyond its length, TCP.
            if packet[12:14] != b"\x08\x00" or packet[23] != 6:
                continue
            tcp = 14 + 4 * (packet[14] & 15)
            data = packet[tcp + 4 * (packet[tcp + 12] >> 4) :]
            if data and not self._ports.isdisjoint((packet[tcp : tcp + 2], packet[tcp + 2 : tcp + 4])):
                self._streams.setdefault(packet[26:34] + packet[tcp : tcp + 4], bytearray()).extend(data)

    @property
    def size(self) -> int:
        """Bytes of all streams."""
        return sum(map(len, self._streams.values()))

    def holds(self, pattern: bytes) -> bool:
        """Whether a stream has these bytes."""
        return any(pattern in stream for stream in self._streams.values())

    def sees_plaintext(self) -> bool:
        """Whether a line that is sent in plaintext now is captured."""
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as sender,
        ):
            self._ports.add(server.getsockname()[1].to_bytes(2, "big"))
            accepted, _ = server.accept()
            sender.sendall(_MARK)
            accepted.recv(len(_MARK))
            accepted.close()
        time.sleep(1.5)
        return self.holds(_MARK)
