"""What the launcher's tests share: a small job, the command in this or another process, and a look at what is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.commands import Command, environment
from support.remote import process_state

from gossip import layout
from gossip.directory import PREFIX, JobDirectory, root
from gossip.transports.view import View

Process = Command | subprocess.Popen[str]

ROOT = Path(__file__).parent.parent.parent

CONFIG = """\
name: small
seed: 3
data: {name: digits, batch_size: 32}
model: {name: mlp, hidden: [16]}
optimizer: {name: sgd, lr: 0.1}
exchange: {method: gosgd, rho: 0.5}
train: {steps: 60}
run: {workers: 2, log_every: 10, eval_every: 20, tensorboard: false}
"""

PARTS = '''\
"""A data set and models of the user's own; batches come slowly while a file called `slowly` lies in the folder, and
not at all while one called `stuck` does; a worker for which none comes says so in a file."""

import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

HERE = Path(__file__).parent


class Points(Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 4, generator=generator)
        self.targets = (self.x.sum(1) > 0).long()

    def __len__(self):
        return len(self.targets)

    def __getitems__(self, indices):
        if (HERE / "slowly").exists():
            time.sleep(0.02)
        while (HERE / "stuck").exists():
            (HERE / f"stuck-{os.environ['RANK']}").touch()
            time.sleep(0.1)
        return [(self.x[index], self.targets[index]) for index in indices]

    def __getitem__(self, index):
        return self.x[index], self.targets[index]


def points():
    return Points(512, 0), Points(128, 1)


def linear(shape, classes):
    return nn.Linear(shape[0], classes)


class Failing(nn.Linear):
    """Ends its process without a word, or with an error, in the training step that is due."""

    def __init__(self, shape, classes, how="exit", at=1):
        super().__init__(shape[0], classes)
        self.how, self.at, self.calls = how, at, 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == self.at:
            if self.how == "exit":
                os._exit(7)
            raise {"mistake": ValueError, "bug": RuntimeError}[self.how]("got points,\\nexpected lines")
        return super().forward(x)
'''

OWN = """\
name: own
data: {name: 'parts:points', batch_size: 16}
model: {name: 'parts:linear'}
optimizer: {name: sgd, lr: 0.1}
exchange: {method: gosgd, rho: 0.5}
train: {steps: 2000}
run: {workers: 2, log_every: 10, eval_every: 200, tensorboard: false}
"""


FRESHLY = ("env",)
"""What `gosgd` is started under for its interpreter to be fresh, and its nursery to take a second to import torch."""


@contextlib.contextmanager
def started(folder: Path, *arguments: str, under: Sequence[str] = ()) -> Iterator[Process]:
    """`gosgd` with these arguments in a process of its own, working in `folder`, `under` another command if wanted."""
    with _start(folder, arguments, under) as process:
        try:
            yield process
        finally:
            process.kill()
            for pid in processes(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _start(folder: Path, arguments: Sequence[str], under: Sequence[str]) -> Process:
    if not under:
        return Command(folder, arguments, environment())
    return subprocess.Popen(
        [*under, sys.executable, "-m", "launch.cli", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def under_torchrun(*arguments: str, options: Sequence[str] = (), timeout_s: float = 110) -> tuple[str, str]:
    """Two workers with these arguments under torchrun, which has to end well; what was written to stdout and stderr."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    command = [*torchrun, "-m", "launch.train", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Lets `action` run in a thread while this one runs the job under the `with`; what fails in it fails the test."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(action)
        yield
        running.result()


def stick(folder: Path, workers: int = 2) -> None:
    """Let no batch of `PARTS` come any more, and wait until every worker waits for one: none of them ends its step."""
    (folder / "stuck").touch()
    until(lambda: all((folder / f"stuck-{rank}").exists() for rank in range(workers)))


def processes(folder: Path) -> list[int]:
    """Ids of the processes that work in `folder` or whose command line names something in it, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                named = str(folder).encode() in (entry / "cmdline").read_bytes()
                if state != "Z" and (named or (entry / "cwd").readlink().is_relative_to(folder)):
                    found.append(int(entry.name))
    return found


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes as if at once, and wait until they have let go of everything, locks included."""
    pids = list(pids)
    # While one is killed after the other, a launcher would start the first again, and a worker tidy up after it.
    # A dying process loses its command line first, its files later; it is a zombie only after both.
    for number, states in ((signal.SIGSTOP, "TtZ"), (signal.SIGKILL, "Z")):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until(lambda states=states: all(process_state(pid) in states for pid in pids))


def jobs() -> list[Path]:
    """Job directories in shared memory."""
    return [*root().glob(f"{PREFIX}*"), *root().glob(f".{PREFIX}*")]


def until(ready: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    """Wait until `ready()` gives something; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := ready()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def made(seat: int, generation: int = 0) -> int:
    """Local steps that a member of the only job there is has made; 0 before there is one."""
    with contextlib.suppress(OSError, ValueError):
        for path in root().glob(f"{PREFIX}*"):
            view = View(JobDirectory.open(path))
            if view.board[seat] > generation:
                return int(view.open(layout.Member(seat, generation))[layout.DONE])
    return 0


def signal_is(pid: int, state: str, number: int) -> bool:
    """Whether a process has a handler for a signal (SigCgt), blocks it (SigBlk) or ignores it (SigIgn)."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status[state], 16) >> (number - 1) & 1)


def stop_the_nursery(folder: Path) -> None:
    """Stop the nursery of a job that is started `FRESHLY`, so that it does not become ready."""
    os.kill(until(lambda: named(folder).get("gosgd-nursery")), signal.SIGSTOP)


def named(folder: Path) -> dict[str, int]:
    """What the kernel calls the processes of a job."""
    found = {}
    for pid in processes(folder):
        with contextlib.suppress(OSError):
            found[Path(f"/proc/{pid}/comm").read_text().strip()] = pid
    return found


def pid_of(folder: Path, rank: int) -> int:
    """The process of the worker with this rank."""
    for path in folder.glob(f"**/workers/{rank}/pid"):
        return int(path.read_text())
    for pid in processes(folder):  # under torchrun
        with contextlib.suppress(OSError):
            if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                return pid
    raise AssertionError(f"no process of worker {rank}")
