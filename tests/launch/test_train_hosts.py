"""Jobs under torchrun on several hosts: a host that dies, one that is cut off for a while, one far away."""

import contextlib
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from launching import environment, kill_all, processes, until
from support.hosts import Union, why_no_network, why_no_nixl
from support.ports import free_port
from support.reading import lines

from benchmarks.networks import network, why_none
from gossip import layout
from gossip.directory import PREFIX, JobDirectory, root
from gossip.layout import Member
from gossip.ledger import audit
from gossip.transports.view import View

pytestmark = pytest.mark.timeout(300)
needs_network = pytest.mark.skipif(bool(why_no_network()), reason=why_no_network())
needs_nixl = pytest.mark.skipif(bool(why_no_nixl()), reason=why_no_nixl())
needs_namespaces = pytest.mark.skipif(bool(why_none()), reason=why_none())
CUTS_S = [10.0, *map(float, os.environ.get("GOSGD_CUTS_S", "").split())]
SERVED_CUT_S = float(os.environ.get("GOSGD_SERVED_CUT_S", "0"))  # longer than it takes a worker to say that it waits
JOB = """\
name: hosts
seed: 3
data: {name: 'slowly:digits', batch_size: 2}
model: {name: mlp, hidden: [16]}
optimizer: {name: sgd, lr: 0.3}
exchange: {method: gosgd, rho: 0.5, trace: events}
train: {steps: 1000000}
run: {log_every: 1000, eval_every: 20, tensorboard: false}
"""
SLOWLY = '''\
"""The digits, a batch every 10 ms, so that three workers leave something of two processors to others."""

import time

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset


class Digits(Dataset):
    def __init__(self, part):
        images, targets = load_digits(return_X_y=True)
        self.x = torch.tensor(images[part], dtype=torch.float32) / 16
        self.targets = torch.tensor(targets[part])

    def __len__(self):
        return len(self.targets)

    def __getitems__(self, indices):
        time.sleep(0.01)
        return [self[index] for index in indices]

    def __getitem__(self, index):
        return self.x[index], self.targets[index]


def digits():
    return Digits(slice(0, 1440)), Digits(slice(1440, None))
'''


class Cluster:
    """torchrun on every host, one worker each.

    Args:
        job: the folder with the configuration.
        hosts: how many.
        net: their networks; the machine's own if None.
    """

    def __init__(self, job, hosts, net=None):
        self.job, self.net = job, net
        self.rooms = [Path(tempfile.mkdtemp(prefix="host-", dir=root())) for _ in range(hosts)]
        self.address = net.addresses[0] if net else "127.0.0.1"
        self.held = contextlib.ExitStack()
        self.port = self.held.enter_context(free_port())
        self.running = {}

    def start(self, host, *arguments, timeout_s=60, **variables):
        inside = self.net.inside(host) if self.net else []
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(self.rooms)}"]
        torchrun += [f"--node-rank={host}", "--nproc-per-node=1", f"--rdzv-conf=timeout={timeout_s}"]
        torchrun += [f"--master-addr={self.address}", f"--master-port={self.port}"]
        with (self.job / f"errors-{host}").open("w") as errors:
            self.running[host] = subprocess.Popen(
                [*inside, *torchrun, "-m", "launch.train", *arguments, f"run.dir={self.job}/run"],
                cwd=self.job,
                env=environment() | {"GOSGD_SHM_DIR": str(self.rooms[host]), "UCX_TLS": "tcp"} | variables,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def start_all(self, *arguments):
        for host in range(len(self.rooms)):
            self.start(host, *arguments)

    def ended(self, timeout_s=120.0):
        """Exit codes, once all have ended."""
        deadline = time.monotonic() + timeout_s
        for process in self.running.values():
            process.communicate(timeout=deadline - time.monotonic())
        codes = [process.returncode for process in self.running.values()]
        self.running.clear()
        return codes

    def views(self):
        """The job's directories, once every host has one."""
        found = [path for room in self.rooms for path in room.glob(f"{PREFIX}*")]
        return [View(JobDirectory.open(path)) for path in found] if len(found) == len(self.rooms) else []

    def errors(self, host):
        return (self.job / f"errors-{host}").read_text()

    def kill(self, host):
        """End all processes of a host at once."""
        room = f"GOSGD_SHM_DIR={self.rooms[host]}".encode()
        found = []
        for pid in processes(self.job):
            with contextlib.suppress(OSError):
                if room in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append(pid)
        kill_all(found)
        self.running.pop(host).communicate()

    def end(self):
        for host in [*self.running]:
            self.kill(host)
        for room in self.rooms:
            subprocess.run(["rm", "-rf", str(room)], check=True)
        self.held.close()


@pytest.fixture
def cluster(job):
    """Makes a job on several hosts of which nothing is left."""
    made = []

    def make(hosts, net=None):
        made.append(Cluster(job, hosts, net))
        return made[-1]

    yield make
    for one in made:
        one.end()


def steps(views, seat, generation=0):
    """Local steps of a worker's life; 0 before it has begun."""
    member = Member(seat, generation)
    return next((int(view.open(member)[layout.DONE]) for view in views if view.file(member, "lock").exists()), 0)


def weights(views, seat):
    """The newest snapshot that a worker has shown."""
    member = Member(seat, 0)
    view = next(view for view in views if view.board[seat])
    both = torch.frombuffer(bytearray(view.file(member, "published").read_bytes()), dtype=torch.float32).view(2, -1)
    return both[view.open(member)[layout.PUBLISHED] & 1]


def distance(views):
    """Between the weights of the first two workers, relative to their size."""
    one, other = weights(views, 0), weights(views, 1)
    return float((one - other).norm() / one.norm())


def merged_twice(job):
    """Messages that were merged more than once, by whomever."""
    merges = [event for path in (job / "run" / "trace").glob("*.jsonl") for event in lines(path)]
    counts = Counter(event["message"] for event in merges if event["do"] == "merge")
    assert len(counts) > 100
    return {message: count for message, count in counts.items() if count > 1}


@needs_network
@pytest.mark.parametrize("seconds", CUTS_S)
def test_three_hosts_go_on_when_one_dies_and_meet_again_when_one_was_cut_off(job, cluster, seconds):
    (job / "hosts.yaml").write_text(JOB)
    (job / "slowly.py").write_text(SLOWLY)
    with network(3) as net:
        hosts = cluster(3, net)
        hosts.start_all("hosts.yaml")
        views = until(hosts.views, 60)
        until(lambda: all(view.board[seat] for seat, view in enumerate(views)) and steps(views, 2) > 200, 60)
        net.shape(0, delay_ms=50, loss=0.01)
        together = distance(views)
        net.cut(1)
        hosts.kill(2)
        cut_at = time.monotonic()
        until(lambda: hosts.errors(1).count("out of reach") >= 2 and "worker 1 is out of reach" in hosts.errors(0))
        alone = [steps(views, seat) for seat in (0, 1)]
        time.sleep(max(0.0, cut_at + seconds - time.monotonic()))
        gone_on = [steps(views, seat) - before for seat, before in enumerate(alone)]
        assert min(gone_on) > 20, "training goes on everywhere"
        apart = distance(views)
        net.mend(1)
        until(lambda: re.search("is out of reach.*worker 1 is in reach", hosts.errors(0), re.DOTALL))
        until(lambda: distance(views) < apart / 3, 60)
        ledger = audit(Union(views), 3, 100_000)
        assert ledger.balanced
        assert sorted(ledger.held) == [(0, 0), (1, 0)]
        assert ledger.lost > 0
        hosts.start(2, "hosts.yaml")  # it comes back as the node it was, and is taught by those who went on
        until(lambda: steps(hosts.views(), 2, 1) > 20, 60)
        views = hosts.views()
        assert distance(views) < apart
        ledger = audit(Union(views), 3, 100_000)
        assert (ledger.balanced, len(ledger.held)) == (True, 3)
        for process in hosts.running.values():
            process.send_signal(signal.SIGTERM)
        hosts.ended()
        print(f"distance {together:.3f}, after {seconds:.0f} s apart {apart:.3f}, steps alone {gone_on}, {ledger}")
    assert merged_twice(job) == {}
    evaluations = lines(job / "run" / "metrics.jsonl")
    assert max(line["workers"] for line in evaluations) == 3, "those of other hosts are looked at, too"
    summary = json.loads((job / "run" / "final" / "summary.json").read_text())
    assert (summary["workers"], summary["interrupted"]) == (3, True)
    assert (job / "run" / "final" / "model.safetensors").exists()


@needs_network
@pytest.mark.parametrize(
    "exchange", ["{method: fully_sync}", "{method: persyn, tau: 5}", "{method: easgd, beta: 0.8, tau: 5}"]
)
def test_the_collective_methods_train_across_hosts(job, cluster, exchange):
    with network(2) as net:
        hosts = cluster(2, net)
        hosts.start_all("small.yaml", f"exchange={exchange}", "train.steps=40")
        assert hosts.ended() == [0, 0], hosts.errors(1)
    summary = json.loads((job / "run" / "final" / "summary.json").read_text())
    assert (summary["workers"], summary["steps_total"], summary["interrupted"]) == (2, 80, False)
    assert summary["accuracy"] > 0.15


def cut_off(hosts, net, own):
    """Cut a worker off for some seconds: it waits and says so, the others go on."""
    net.cut(1)
    time.sleep(0.2)
    before = [own(seat) for seat in range(3)]
    until(lambda: re.search(r"worker 1: has waited \d+ s for the server to answer a '\w+' request", hosts.errors(1)))
    time.sleep(SERVED_CUT_S)
    alone = [own(seat) - made for seat, made in enumerate(before)]
    assert min(alone[0], alone[2]) > 40
    assert alone[1] <= 5, "until its next request"
    net.mend(1)


def kill_the_server(hosts, net, own):
    """Worker 0 starts another one, to which all come back."""
    (server,) = [pid for pid in processes(hosts.job) if b"launch.server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    kill_all([server])
    until(lambda: "the server of the central variable has died (-9); restart 1 of 3" in hosts.errors(0))
    for host in range(3):
        until(lambda host=host: re.search(rf"worker {host}: the server is back after [\d.]+ s", hosts.errors(host)))


@needs_namespaces
@pytest.mark.parametrize(
    ("exchange", "befalls", "moves", "steps"),
    [
        ("{method: downpour, n_fetch: 5, n_push: 5}", cut_off, ("pushes", "fetches"), 400),
        pytest.param("{method: easgd, mode: async, tau: 5}", kill_the_server, ("moves",), 300, marks=pytest.mark.slow),
    ],
    ids=["downpour", "easgd"],
)
def test_three_hosts_train_with_a_server_on_the_first_and_no_move_is_lost_or_made_twice(
    job, cluster, exchange, befalls, moves, steps
):
    (job / "hosts.yaml").write_text(JOB.replace("lr: 0.3", "lr: 0.05"))
    (job / "slowly.py").write_text(SLOWLY)
    with network(3) as net:
        hosts = cluster(3, net)
        hosts.start_all("hosts.yaml", f"exchange={exchange}", f"train.steps={steps}", "run.eval_every=50")
        views = until(hosts.views, 60)

        def own(seat):
            return int(views[seat].open(Member(seat, 0))[layout.DONE]) if views[seat].board[seat] else 0

        until(lambda: min(map(own, range(3))) > 20, 60)
        befalls(hosts, net, own)
        assert hosts.ended() == [0, 0, 0], hosts.errors(1)
        until(lambda: not processes(job), timeout_s=5)
        assert [path for room in hosts.rooms for path in room.iterdir()] == []
    summary = json.loads((job / "run" / "final" / "summary.json").read_text())
    assert (summary["workers"], summary["steps_total"], summary["interrupted"]) == (3, 3 * steps, False)
    assert summary["accuracy"] > 0.6
    if befalls is kill_the_server:  # who is cut off may have shown nothing when the first makes its last step
        assert lines(job / "run" / "metrics.jsonl")[-1]["workers"] == 3, "all are looked at by the first"
    figures = [lines(job / "run" / "workers" / str(seat) / "metrics.jsonl")[-1]["exchange"] for seat in range(3)]
    made = sum(its[name] for its in figures for name in moves)
    assert made == len(moves) * 3 * steps / 5
    assert lines(job / "run" / "server" / "metrics.jsonl")[-1]["version"] == made + 1, "and the last fetch of all"


@needs_nixl
def test_the_loss_of_the_stores_host_stops_new_joins_only_and_the_others_say_so(job, cluster):
    (job / "hosts.yaml").write_text(JOB)
    (job / "slowly.py").write_text(SLOWLY)
    hosts = cluster(2)
    hosts.start_all("hosts.yaml")
    views = until(hosts.views, 60)
    until(lambda: steps(views, 1) > 20, 60)
    hosts.kill(0)
    lost = rf"the store at 127\.0\.0\.1:{hosts.port} is lost: no worker can join any more, training goes on"
    until(lambda: re.search(lost, hosts.errors(1)) and "worker 0 is out of reach" in hosts.errors(1))
    done = steps(views, 1)
    until(lambda: steps(views, 1) > done + 20)


HIDDEN = "import sys; sys.modules['nixl'] = None"


@needs_nixl
@pytest.mark.parametrize(
    ("changes", "variables", "said"),
    [
        (
            ["exchange.rho=0.25"],
            {},
            [r"exchange\.rho: got 0\.25 on this host and 0\.5 on worker 0's, expected the same configuration"] * 2,
        ),
        (
            [],
            {"PYTHONPATH": "{job}/other:{path}"},
            [r"got gosgd 9\.9\.9 on this host and \S+ on worker 0's, expected one version"] * 2,
        ),
        ([], {"PYTHONPATH": "{job}/without:{path}"}, [r"without nixl, .*; pip install 'gosgd\[cluster\]'"] * 2),
        (
            [],
            {"GOSGD_SECRET": "not the secret of the other host"},
            [
                rf"got no record 'gosgd/0/1/{name}' of this job in \d+ s, those found were signed by somebody else"
                for name in ("host/1", "directory")
            ],
        ),
    ],
    ids=["configuration", "version", "no nixl", "secret"],
)
def test_hosts_that_do_not_fit_together_refuse_to_start(job, cluster, changes, variables, said):
    (job / "other" / "gosgd-9.9.9.dist-info").mkdir(parents=True)
    (job / "other" / "gosgd-9.9.9.dist-info" / "METADATA").write_text("Name: gosgd\nVersion: 9.9.9\n")
    (job / "without").mkdir()
    (job / "without" / "sitecustomize.py").write_text(HIDDEN)
    path = environment()["PYTHONPATH"]
    hosts = cluster(2)
    hosts.start(0, "small.yaml")
    hosts.start(1, "small.yaml", *changes, **{name: to.format(job=job, path=path) for name, to in variables.items()})
    assert hosts.ended() == [1, 1], "as torchrun ends when a worker does not end well"
    for host, complaint in enumerate(said):
        assert re.search(complaint, hosts.errors(host)), hosts.errors(host)
        assert "exitcode  : 2" in hosts.errors(host)
        assert "Traceback (most recent call last):\n" not in hosts.errors(host).partition("gosgd: ")[0]


class Question(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(100)
        self.request.sendall(b"what?")


class Other(socketserver.ThreadingTCPServer):
    """Something else that listens on the port of torchrun."""

    allow_reuse_address = True


def test_a_first_host_that_is_not_there_or_has_no_free_port_ends_every_host(job, cluster):
    hosts = cluster(2)
    hosts.start(1, "small.yaml", timeout_s=2)
    assert hosts.ended(60) == [1]
    assert f"timed out after 2000ms while trying to connect to (127.0.0.1, {hosts.port})" in hosts.errors(1)
    with Other(("", hosts.port), Question) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        for host in range(2):
            hosts.start(host, "small.yaml", timeout_s=2)
        assert hosts.ended(60) == [1, 1]
        other.shutdown()
    assert "address already in use" in hosts.errors(0)
    assert "Error" in hosts.errors(1)
