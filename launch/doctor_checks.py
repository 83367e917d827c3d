"""What `gosgd doctor` looks at, section by section. Imports gossip.directory, gossip.fence, launch.doctor_trial."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import torch
import torch.distributed as dist
from packaging.requirements import Requirement

from gossip.directory import PREFIX, in_use, root
from gossip.fence import load as load_fence
from gossip.transports.nixl import rdma
from launch.doctor_trial import Trial, attempt
from launch.units import size

OURS = ("configs", "gossip", "regularizers", "trainers", "launch")
_EXTRAS = ("scikit-learn", "matplotlib", "pillow", "scipy", "nixl")
_SMALL = 64 * 2**20
"""Bytes of /dev/shm in a container whose maker did not ask for more."""
_SETTINGS = (
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "GOSGD_SHM_DIR",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "NCCL_DEBUG",
    "NCCL_P2P_DISABLE",
    "NCCL_IB_DISABLE",
    "UCX_NET_DEVICES",
    "UCX_TLS",
)
"""Environment variables that explain much and give nothing away."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: it belongs to.
        name: of the thing.
        value: what was found.
        broken: whether jobs cannot work as they should because of it.
        advice: what to do, if anything.
    """

    section: str
    name: str
    value: str
    broken: bool = False
    advice: str = ""


def everything(timeout_s: float) -> Iterator[Finding]:
    """All findings, section by section."""
    yield from _found("versions", versions)
    yield from _found("machine", machine)
    yield from _found("devices", devices)
    yield from _found("shared memory", shared_memory)
    yield from _found("package names", shadows)
    yield from _found("two processes", lambda: exchange(attempt(timeout_s)))


def _found(section: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a section; what keeps it from being looked at further, such as a broken driver, is one, too."""
    try:
        yield from look()
    except Exception as error:
        said = str(error).partition("\n")[0]
        yield Finding(section, "the rest", f"not looked at: {type(error).__name__}: {said}", True)


def versions() -> Iterator[Finding]:
    """Of Python, of what gosgd needs, and of its extras."""
    section = "versions"
    yield Finding(section, "gosgd", importlib.metadata.version("gosgd"))
    yield Finding(section, "python", f"{platform.python_version()} ({platform.python_implementation()})")
    for line in importlib.metadata.requires("gosgd") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield _version(section, wanted)
    for name in _EXTRAS:
        found = _installed(name)
        yield Finding(section, name, found or "not installed (optional)")


def _version(section: str, wanted: Requirement) -> Finding:
    found = _installed(wanted.name)
    if found is None:
        return Finding(section, wanted.name, "not installed", True, f"pip install '{wanted}'")
    if not wanted.specifier.contains(found, prereleases=True):
        return Finding(section, wanted.name, f"{found}, expected {wanted.specifier}", True, f"pip install '{wanted}'")
    return Finding(section, wanted.name, found)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> Iterator[Finding]:
    """System, processors, memory and limits."""
    section = "machine"
    yield Finding(section, "system", platform.platform())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(section, "processors", f"{os.cpu_count()}, {usable} of them for this process")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Finding(section, "memory", size(pages))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding(section, "open files", f"up to {files:,} a process")
    try:
        load_fence()
        yield Finding(section, "memory fence", f"{platform.machine()}: in order")
    except ValueError as error:
        yield Finding(section, "memory fence", str(error), True, "install libatomic1 (Debian) or libatomic (Fedora)")
    given = [f"{name}={os.environ[name]}" for name in _SETTINGS if name in os.environ]
    given += ["GOSGD_SECRET is set"] if "GOSGD_SECRET" in os.environ else []
    yield Finding(section, "settings", ", ".join(given) or "none in the environment")


def devices() -> Iterator[Finding]:
    """Accelerators, whether they reach each other's memory, and libraries to communicate with."""
    section = "devices"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torch.version.cuda is None:
        yield Finding(section, "CUDA", "not in this build of torch: workers train on the CPU")
    elif not count:
        hidden = Path("/proc/driver/nvidia/version").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        advice = "the driver is there: is it too old for this torch, or the device not given to the container?"
        yield Finding(section, "CUDA", f"{torch.version.cuda}, no device found", hidden, advice if hidden else "")
    else:
        yield Finding(section, "CUDA", f"{torch.version.cuda}, {count} device{'s' * (count > 1)}")
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        shown = f"{about.name}, capability {about.major}.{about.minor}, {size(free)} of {size(total)} free"
        yield Finding(section, f"device {index}", shown)
    if count > 1:
        apart = [
            f"{one}-{other}"
            for one in range(count)
            for other in range(count)
            if one != other and not torch.cuda.can_device_access_peer(one, other)
        ]
        yield Finding(section, "peer access", f"not between {', '.join(apart)}" if apart else "between all devices")
    gloo = dist.is_available() and dist.is_gloo_available()
    yield Finding(section, "gloo", "in this build of torch" if gloo else "not in this build of torch", not gloo)
    if dist.is_nccl_available():
        version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        yield Finding(section, "NCCL", ".".join(map(str, version)))
    else:
        yield Finding(section, "NCCL", "not in this build of torch", count > 0, "install torch for CUDA" * (count > 0))
    yield _between_hosts(section)


def _between_hosts(section: str) -> Finding:
    """What vectors go over between hosts, and whether memory can be locked for it."""
    if not rdma():
        return Finding(section, "RDMA", "no device is up: between hosts messages go over TCP")
    most, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if most == resource.RLIM_INFINITY:
        return Finding(section, "RDMA", "a device is up")
    return Finding(section, "RDMA", f"a device is up, but only {size(most)} can be locked", True, "ulimit -l unlimited")


def shared_memory() -> Iterator[Finding]:
    """Where workers of one host meet, and how much fits."""
    section, where = "shared memory", root()
    kind = _file_system(where)
    if not where.is_dir() or not os.access(where, os.W_OK | os.X_OK):
        advice = "set GOSGD_SHM_DIR to a directory in memory that you can write to"
        yield Finding(section, "where", f"{where}: no directory that can be written to", True, advice)
        return
    yield Finding(section, "where", f"{where} ({kind})")
    usage = shutil.disk_usage(where)
    few = usage.total <= _SMALL
    advice = "docker run --shm-size=8g, or see docs/clusters.md for Kubernetes" if few else ""
    yield Finding(section, "size", f"{size(usage.free)} of {size(usage.total)} free", False, advice)
    if kind not in ("tmpfs", "ramfs", "hugetlbfs", "unknown"):
        advice = "choose a directory in memory (tmpfs): each message would go through a disk's cache"
        yield Finding(section, "kind", f"{kind} is no file system in memory", False, advice)
    mine = [path for path in where.glob(f"{PREFIX}*") if path.is_dir() and path.stat().st_uid == os.getuid()]
    running = sum(map(in_use, mine))
    yield Finding(section, "jobs", f"{running} of yours running, {len(mine) - running} left by dead ones")


def _file_system(where: Path) -> str:
    """The kind of file system of a folder."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    path = where.resolve()
    over = [(len(point), kind) for point, kind in mounts if path == Path(point) or Path(point) in path.parents]
    return max(over)[1] if over else "unknown"


def shadows(path: list[str] | None = None, home: Path | None = None) -> Iterator[Finding]:
    """Packages of other distributions, or of the working directory, with the names of ours.

    Args:
        path: to be searched, as `sys.path`; that of this process and, as `torchrun -m` has it, the working directory.
        home: where our packages are.
    """
    section, home = "package names", (home or Path(__file__).parent.parent).resolve()
    path = [*sys.path] if path is None else path
    here = str(Path.cwd())
    for name in OURS:
        places = _places(name, path)
        first = places[0] if places else None
        under_torchrun = _places(name, [here, *path])
        others = [place for place in places if place != home / name]
        if first not in (home / name, None):  # None: an editable installation's, which no path shows
            advice = "uninstall the other one, or move its folder out of the path"
            yield Finding(section, name, f"{first} is found in place of {home / name}", True, advice)
        elif under_torchrun and under_torchrun[0] != home / name:
            advice = "start from another folder, or rename that one: torchrun -m looks there first"
            yield Finding(section, name, f"{under_torchrun[0]} is found under torchrun", True, advice)
        else:
            also = f", hides {', '.join(map(str, others))}" if others else ""
            yield Finding(section, name, f"{home / name}{also}")


def _places(name: str, path: list[str]) -> list[Path]:
    """Where packages or modules of this name are, in the order in which they are found."""
    found: list[Path] = []
    for entry in path:
        spec = PathFinder.find_spec(name, [entry or str(Path.cwd())])
        if spec is None or spec.origin is None:  # a folder without __init__ hides nothing
            continue
        place = Path(spec.origin).resolve()
        place = place.parent if place.name == "__init__.py" else place
        if place not in found:
            found.append(place)
    return found


def exchange(trial: Trial) -> Iterator[Finding]:
    """What two processes of this machine managed to do together."""
    section = "two processes"
    for part, told in trial.told.items():
        yield Finding(section, part, told.said, told.broken, told.advice)
