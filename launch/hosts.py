"""`gosgd train CONFIG --hosts a,b,c`: prints the torchrun line of each host, or runs that of this one.

Imports launch.torchrun. Nothing is started on other hosts: that takes a way into them, which schedulers, ssh and people
already have.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from gossip.records import SECRET, secret_file
from launch.arguments import NOT_RESUMED
from launch.errors import DONE
from launch.torchrun import PORT, ClusterJob, check_job

_HOST = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([\w.-]+))(?::(\d+))?")


def run(hosts: str, config: str, overrides: Sequence[str], workers: int | None, resume: str, here: bool) -> int:
    """Print a line for each host, or run the one of this host.

    Args:
        hosts: their names, with commas; one of them with the port of torchrun's store on the first.
        config: a file or the name of a recipe.
        overrides: `key=value` each.
        workers: of each host.
        resume: see `gosgd train`.
        here: whether to run this host's line.

    Returns:
        0; where a line is run, its process takes the place of this one.

    Raises:
        ValueError: a mistake in the configuration or among the hosts, or this is none of them.
    """
    names, port = parse(hosts)
    job = check_job(config, overrides, len(names), workers)
    train = ["-m", "launch.train", config, *overrides, *([] if resume == NOT_RESUMED else ["--resume", resume])]
    # Two jobs with the same hosts and port share no records as long as their names differ.
    lines = [[*_torchrun(job, names, port, rank), *train] for rank in range(len(names))]
    if here:
        rank = this_host(names)
        if rank == 0:
            check_port(port)
        _become(lines[rank], job.run.train.threads)
    print(f"# {job.describe()}. On each host, in the same folder, with the same {SECRET} (or {secret_file()}):")
    for name, line in zip(names, lines, strict=True):
        print(f"\n# {name}\n{shlex.join(['torchrun', *line])}")
    return DONE


def _become(torchrun: list[str], threads: int) -> NoReturn:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    os.environ["PYTHONSAFEPATH"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *torchrun])


def _torchrun(job: ClusterJob, names: Sequence[str], port: int, rank: int) -> list[str]:
    address = f"[{names[0]}]" if ":" in names[0] and job.method.collective else names[0]
    return job.arguments(job.run.name, address, port, rank)


def parse(hosts: str) -> tuple[list[str], int]:
    """The names and the port of `a,b,c:29500`.

    Raises:
        ValueError: it is no such list.
    """
    names, ports = [], set()
    for entry in hosts.split(","):
        match = _HOST.fullmatch(entry.strip())
        if match is None:
            raise ValueError(f"--hosts: got {entry!r}, expected host, host:port or [address]:port, with commas between")
        names.append(match[1] or match[2])
        ports |= {int(match[3])} if match[3] else set()
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--hosts: got {twice[0]} twice, expected each host once")
    if len(ports) > 1:
        raise ValueError(f"--hosts: got ports {', '.join(map(str, sorted(ports)))}, expected one, of the first host")
    port = ports.pop() if ports else PORT
    if not 0 < port < 65536:
        raise ValueError(f"--hosts: got port {port}, expected 1 to 65535")
    return names, port


def this_host(names: Sequence[str]) -> int:
    """Which of the hosts this is: the one whose name is ours, or whose address belongs to us.

    Raises:
        ValueError: none or several of them.
    """
    ours = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    found = [rank for rank, name in enumerate(names) if name in ours] or [
        rank for rank, name in enumerate(names) if _ours(name)
    ]
    if len(found) != 1:
        got = "none of" if not found else f"{' and '.join(names[rank] for rank in found)} among"
        raise ValueError(
            f"--run: got this host ({socket.gethostname()}) as {got} --hosts {','.join(names)}, expected exactly one;"
            " run the printed line instead"
        )
    return found[0]


def check_port(port: int) -> None:
    """Refuse a port on which something listens already.

    Raises:
        ValueError: something does.
    """
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a job that has just ended does not count
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"--hosts: got port {port}, which cannot be listened on here ({error.strerror}); name another one,"
                " the same on every host"
            ) from None


def _ours(name: str) -> bool:
    """Whether a socket can be bound to an address of this name, as only those of this host can."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a name that nobody knows, or that can be none
        return False
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False
