"""Hosts of the tests' own: network namespaces on one bridge, each with an address."""

import contextlib
import os
import shutil
import subprocess

NETWORK = "10.214.77"


class Hosts:
    """Namespaces by name; what runs in one has its address and its loopback alone."""

    def __init__(self, names):
        self._mark = f"sf{os.getpid() % 10**7}"
        self.addresses = {name: f"{NETWORK}.{i}" for i, name in enumerate(names, 2)}

    def __enter__(self):
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        for name in ("hub", *self.addresses):
            subprocess.run(["ip", "netns", "del", self._namespace(name)], capture_output=True)

    def _make(self):
        _run("ip", "netns", "add", self._namespace("hub"))
        _run(*self.inside("hub"), "ip", "link", "add", "bridge", "type", "bridge")
        _run(*self.inside("hub"), "ip", "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(self.addresses.items()):
            _run("ip", "netns", "add", self._namespace(name))
            ends = f"{self._mark}{number}a", f"{self._mark}{number}b"
            _run("ip", "link", "add", ends[0], "netns", self._namespace(name), "type", "veth", "peer", ends[1], "netns",
                 self._namespace("hub"))  # fmt: skip
            _run(*self.inside(name), "ip", "link", "set", ends[0], "name", "net")
            _run(*self.inside(name), "ip", "addr", "add", f"{address}/24", "dev", "net")
            for device in ("lo", "net"):
                _run(*self.inside(name), "ip", "link", "set", device, "up")
            _run(*self.inside("hub"), "ip", "link", "set", ends[1], "master", "bridge", "up")

    def _namespace(self, name):
        return f"{self._mark}-{name}"

    def inside(self, name):
        """The words before a command that is to run on a host."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def plug(self, name, state):
        """Pull a host's network plug ("down") or put it back ("up")."""
        _run(*self.inside(name), "ip", "link", "set", "net", state)


def why_not():
    """What is missing for hosts of our own on this machine, or None."""
    if shutil.which("ip") is None:
        return "iproute2 (ip) is not installed"
    if os.geteuid() != 0:
        return "root is needed for network namespaces"
    with contextlib.suppress(subprocess.CalledProcessError), Hosts(["probe"]):
        return None
    return "network namespaces can't be made here"


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)
