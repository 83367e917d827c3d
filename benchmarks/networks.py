"""Hosts on one machine: network namespaces on a bridge, with links that can be cut and shaped. Needs root and `ip`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWNET, _MS_REC, _MS_PRIVATE = 0x20000, 0x40000000, 0x4000, 1 << 18
_RELAY = Path(__file__).parent / "relay.py"


def why_none() -> str:
    """Why hosts with networks of their own cannot be made here; empty if they can."""
    if not shutil.which("ip") or os.geteuid():
        return "network namespaces need the command ip, and root"
    name = f"gosgd-{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """Namespaces on a bridge.

    Args:
        hosts: how many.

    Attributes:
        names: of the namespaces; each has an interface `eth0`.
        addresses: of the hosts.
    """

    def __init__(self, hosts: int) -> None:
        # Never the same twice: what is left of a network that was removed takes its time to go.
        self._tag = f"g{secrets.token_hex(3)}"
        self._bridge = f"{self._tag}br"
        self._relays: dict[int, subprocess.Popen[str]] = {}
        self.names = [f"{self._tag}h{host}" for host in range(hosts)]
        self.addresses = [f"10.77.0.{host + 1}" for host in range(hosts)]

    def make(self) -> None:
        """Make them."""
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        for host, name in enumerate(self.names):
            _ip("netns", "add", name)
            _ip("link", "add", self._port(host), "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", self._port(host), "master", self._bridge, "up")
            _ip("-n", name, "addr", "add", f"{self.addresses[host]}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def _port(self, host: int) -> str:
        return f"{self._tag}v{host}"

    def inside(self, host: int) -> list[str]:
        """What to put before a command that is to run on a host."""
        return ["ip", "netns", "exec", self.names[host]]

    def cut(self, host: int) -> None:
        """Take a host off the network."""
        _ip("link", "set", self._port(host), "down")

    def mend(self, host: int) -> None:
        """Put it back."""
        _ip("link", "set", self._port(host), "up")

    def shape(self, host: int, delay_ms: float = 0.0, loss: float = 0.0, mbits_per_s: float = 0.0) -> None:
        """Delay and lose what a host sends, and bound the rate both ways; once a host.

        Args:
            loss: fraction of the frames.
        """
        rate = ["rate", f"{mbits_per_s:g}mbit"] if mbits_per_s else []
        netem = ["netem", "limit", "100000", "delay", f"{delay_ms:g}ms", "loss", f"{100 * loss:g}%", *rate]
        shaped = subprocess.run(
            [*self.inside(host), "tc", "qdisc", "replace", "dev", "eth0", "root", *netem], capture_output=True
        )
        if shaped.returncode == 0 and rate:
            back = ["netem", "limit", "100000", *rate]
            command = ["tc", "qdisc", "replace", "dev", self._port(host), "root", *back]
            subprocess.run(command, check=True, capture_output=True)
        if shaped.returncode:
            self._relay(host, delay_ms / 1e3, loss, 1e6 * mbits_per_s)

    def _relay(self, host: int, *how: float) -> None:
        outer, inner = f"{self._tag}o{host}", f"{self._tag}i{host}"
        _ip("link", "set", self._port(host), "nomaster")
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "up")
        _ip("link", "set", outer, "master", self._bridge, "up")
        relay = [sys.executable, "-S", str(_RELAY), self._port(host), inner, *map(str, how)]
        self._relays[host] = running = subprocess.Popen(relay, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None and running.stdout.readline()

    def remove(self) -> None:
        """Remove everything."""
        for host, relay in self._relays.items():
            relay.kill()
            relay.communicate()
            subprocess.run(["ip", "link", "del", f"{self._tag}o{host}"], capture_output=True)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)


@contextlib.contextmanager
def network(hosts: int) -> Iterator[Network]:
    """Hosts on a bridge, and nothing of them afterwards."""
    made = Network(hosts)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def move_to(namespace: str) -> None:
    """Let this thread, and those it starts from now on, live in a network namespace, /sys included."""
    libc = ctypes.CDLL(None, use_errno=True)

    def done(outcome: int) -> None:
        if outcome:
            raise OSError(ctypes.get_errno(), f"could not enter {namespace}")

    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    done(libc.setns(descriptor, _CLONE_NEWNET))
    os.close(descriptor)
    done(libc.unshare(_CLONE_NEWNS))
    done(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    done(libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None))
