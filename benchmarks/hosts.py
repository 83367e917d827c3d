"""What an exchange costs a training step between hosts: gossip over NIXL beside no exchange and DDP over gloo.

The least that an exchange takes, a copy, a socket and a lerp, is timed beside them. Two processes live in network
namespaces of their own, joined by a bridge, and train at the same time; UCX and gloo go through TCP. Then the link is
made slow and thin, and gossip, PerSyn and DDP train digits until a loss is reached.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import statistics
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined, unused-ignore]
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import gossip
from benchmarks import networks, options, report
from benchmarks.by_hand import ByHand, connected
from benchmarks.exchange import Round, flattened, ratios
from benchmarks.fleet import Fleet, Signs, job_directories
from benchmarks.loops import BATCH_SIZE, NETWORKS, Loop, timed
from benchmarks.race import classifier, digits, show_race
from benchmarks.report import Bar, spread
from gossip.directory import JobDirectory
from gossip.flat import Flat
from gossip.hosts import Hosts
from gossip.job import Job

WORKERS = 2
PORT = 29500
RATES = {"0.1": 0.1, "0.4": 0.4, "1": 1.0}
WIRES = ["float32", "bfloat16"]
BARS = {"float32": [1.10, 1.30, 1.65], "bfloat16": [1.06, 1.18, 1.40]}
FLOORS = {f"socket {wire}": getattr(torch, wire) for wire in WIRES}
VARIANTS = ["none", "ddp", *FLOORS, *(f"{wire} {rate}" for wire in WIRES for rate in RATES)]
DELAY_MS, MBITS_PER_S = 20.0, 1000.0
METHODS: dict[str, dict[str, Any]] = {
    "gossip": {"rho": 0.1},
    "gossip, bfloat16": {"rho": 0.1, "wire_dtype": "bfloat16"},
    "persyn": {"tau": 10},
    "ddp": {},
}
TARGET = 0.1
HIDDEN = {"7m": [2600, 2600], "200k": [400, 400]}
_RATE, _LOOK_EVERY = 0.05, 5
_KEY, _WARM_UP = b"of this benchmark", 10
HEADER = ["variant", "step ms", "over none", "bar", "by hand at rho", "own us a step", "merged a step"]
_NAMES = {"ddp": "DDP over gloo"} | {f"socket {wire}": f"by hand, {wire}, every step" for wire in WIRES}


class Worker:
    """One process on a host of its own.

    Args:
        namespaces: of the hosts.
        address: of the first one.
        network: that they train.
        batch: samples of a step.
        directories: where each host's members meet, one for every exchange that is built.
    """

    def __init__(
        self,
        rank: int,
        namespaces: list[str],
        address: str,
        network: str,
        batch: int,
        directories: list[list[JobDirectory]],
    ) -> None:
        networks.move_to(namespaces[rank])
        os.environ |= {"GLOO_SOCKET_IFNAME": "eth0", "UCX_TLS": "tcp", "UCX_NET_DEVICES": "eth0"}
        self._store = TCPStore(address, PORT, WORKERS, rank == 0, timedelta(seconds=60))
        dist.init_process_group("gloo", store=PrefixStore("group", self._store), rank=rank, world_size=WORKERS)
        self._rank, self._name, self._batch = rank, network, batch
        self._signs = Signs(directories[0][0].path / "signs", WORKERS)
        self._directories = [places[rank] for places in directories]
        self._network = NETWORKS[network]
        model = self._network.build()
        plain, ddp = copy.deepcopy(model), copy.deepcopy(model)
        self._loops = {
            "none": self._loop(plain),
            "ddp": self._loop(ddp, module=DistributedDataParallel(ddp, gradient_as_bucket_view=True)),
        }
        self._peer = connected(rank, address, PORT + 1)
        for name, dtype in FLOORS.items():
            own = copy.deepcopy(model)
            by_hand = ByHand(Flat(own).vector, dtype, self._peer)
            self._loops[name] = self._loop(own, exchange=by_hand.exchange)
        self._model = model
        self._gossip: gossip.GoSGD | None = None

    def parameters(self) -> int:
        """Of the model."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def _loop(self, model: nn.Module, **options: Any) -> Loop:
        return Loop(model, self._network.shape, self._rank, batch=self._batch, **options)

    def _job(self) -> Job:
        directory = self._directories.pop()
        ranks = [[rank] for rank in range(WORKERS)]
        hosts = Hosts(self._store, _KEY, f"exchange/{len(self._directories)}", ranks, ranks[self._rank])
        return Job(self._rank, WORKERS, 0, directory, supervised=True, hosts=hosts)

    def open(self, wire: str) -> None:
        """Begin to gossip; nothing of it runs beside the variants without."""
        model = copy.deepcopy(self._model)
        self._gossip = gossip.GoSGD(model, job=self._job(), seed=0, rho=0.0, wire_dtype=wire)
        self._loops["gossip"] = self._loop(model, exchange=self._gossip.step)
        self._gossip.start()
        while not self._gossip.outbox.choosable(0):
            time.sleep(0.01)
            self._gossip.step()

    def close(self) -> None:
        """End it."""
        assert self._gossip is not None
        self._gossip.close(10.0)
        self._gossip = None

    def run(self, variant: str, warm_up: int, steps: int) -> Round:
        """One round of a variant, at the same time as the other worker."""
        if self._gossip is None:
            meets = variant != "none"
            return Round(timed(self._loops[variant].step, warm_up, steps, self._signs, self._rank, meets), 0)
        self._gossip.rho = RATES[variant.split()[1]]
        before, began = self._gossip.outbox.counters.received, self._gossip.steps
        timing = timed(self._loops["gossip"].step, warm_up, steps, self._signs, self._rank, collective=False)
        merged = self._gossip.outbox.counters.received - before
        return Round(timing, merged / max(1, self._gossip.steps - began))

    def train(self, method: str, seed: int, target: float, longest_s: float) -> dict[str, Any]:
        """Train digits until the loss of this worker's own weights is below `target`, and let the other get there too.

        Returns:
            Seconds of training, evaluations left out, until then, and the steps; the whole curve.
        """
        torch.manual_seed(seed)
        x, y = digits()
        model = classifier(HIDDEN[self._name])
        module: nn.Module = model
        exchange: gossip.Exchange | None = None
        if method == "ddp":
            module = DistributedDataParallel(model, gradient_as_bucket_view=True)
        elif method == "persyn":
            exchange = gossip.PerSyn(model, job=self._job(), seed=seed, **METHODS[method])
        else:
            exchange = gossip.GoSGD(model, job=self._job(), seed=seed, **METHODS[method])
        if exchange is not None:
            exchange.start()
        optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9, fused=True)
        chance = torch.Generator().manual_seed(1000 * seed + self._rank)
        curve: list[tuple[float, int, float]] = []
        spent, step, reached = 0.0, 0, None
        turn = self._signs.count(self._rank) + 1
        while True:
            began = time.perf_counter()
            for _ in range(_LOOK_EVERY):
                batch = torch.randint(len(x), (BATCH_SIZE,), generator=chance)
                optimizer.zero_grad(set_to_none=True)
                loss = functional.cross_entropy(module(x[batch]), y[batch])
                torch.autograd.backward(loss)
                optimizer.step()
                if exchange is not None:
                    exchange.step()
                step += 1
            spent += time.perf_counter() - began
            with torch.no_grad():
                curve.append((spent, step, float(functional.cross_entropy(model(x[::4]), y[::4]))))
            if reached is None and curve[-1][2] < target:
                reached = spent, step
                self._signs.count(self._rank)
            if self._stop(method, turn, spent > longest_s):
                break
        if exchange is not None:
            exchange.close(20.0)
        seconds, steps = reached or (None, step)
        while self._signs[self._rank] < turn:
            self._signs.count(self._rank)
        return {"seconds": seconds, "steps": steps, "curve": curve}

    def _stop(self, method: str, turn: int, late: bool) -> bool:
        """Whether both are there, or it has taken too long; workers in step find so at the same step."""
        if method not in ("ddp", "persyn"):
            return late or self._signs.reached(turn)
        word = torch.tensor([self._signs[self._rank] >= turn, late]).float()
        dist.all_reduce(word)
        return bool(word[0] == WORKERS or word[1])


@contextlib.contextmanager
def hosts(network: str, exchanges: int, batch: int = BATCH_SIZE) -> Any:
    """The network and the two workers on it, with room for so many exchanges."""
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(networks.network(WORKERS))
        pairs = [stack.enter_context(job_directories(WORKERS, WORKERS)) for _ in range(exchanges + 1)]
        fleet = Fleet(WORKERS, Worker, net.names, net.addresses[0], network, batch, pairs)
        yield net, stack.enter_context(fleet)


def measure(network: str, rounds: int, steps: int, batch: int) -> dict[str, Any]:
    """All variants in turn, `rounds` times; lists are [rounds][workers]."""
    found: dict[str, Any] = {"model": network, "workers": WORKERS, "steps": steps, "batch": batch}
    found["variants"] = {variant: {"step_s": [], "exchange_s": [], "merged": []} for variant in VARIANTS}
    with hosts(network, rounds * len(WIRES), batch) as (_, fleet):
        found["parameters"] = fleet.call("parameters")[0]

        def run(variant: str) -> None:
            made: list[Round] = fleet.call("run", variant, _WARM_UP, steps)
            lists = found["variants"][variant]
            lists["step_s"].append([one.timing.step for one in made])
            lists["exchange_s"].append([one.timing.exchange for one in made])
            lists["merged"].append([one.merged for one in made])

        for turn in range(rounds):
            report.progress(f"{network}: round {turn + 1} of {rounds}")
            for variant in ("none", "ddp", *FLOORS):
                run(variant)
            for wire in WIRES:
                fleet.call("open", wire)
                for rate in RATES:
                    run(f"{wire} {rate}")
                fleet.call("close")
    return found


def show(found: dict[str, Any]) -> list[Bar]:
    """Print the table of step costs; returns its bars."""
    bars, rows = [], []
    limits = {f"{wire} {rate}": bar for wire in WIRES for rate, bar in zip(RATES, BARS[wire], strict=True)}
    for variant in VARIANTS:
        lists, ratio = found["variants"][variant], ratios(found, variant)
        own, gossips = spread(flattened(lists["exchange_s"])), variant in limits
        name = f"gossip {variant.replace(' ', ', rho=')}" if gossips else _NAMES.get(variant, variant)
        least = ""
        if gossips:
            wire, rate = variant.split()
            least = f"{1 + RATES[rate] * (ratios(found, f'socket {wire}').median - 1):.3f}"
        if gossips and found["model"] == "7m":
            bars.append(Bar(f"{found['model']}, {name}: step over none", "<=", limits[variant], ratio.median))
        rows.append(
            [
                name,
                spread(flattened(lists["step_s"])).text(2, 1e3),
                ratio.text(3),
                f"{limits[variant]:.2f}" if gossips else "",
                least,
                own.text(0, 1e6) if gossips else "",
                f"{statistics.fmean(flattened(lists['merged'])):.3f}" if gossips else "",
            ]
        )
    size = f"{found['parameters']:,} parameters, batch {found['batch']}"
    print(f"\n{found['model']}: {size}, 2 workers in 2 network namespaces")
    print(report.table(HEADER, rows))
    return bars


def race(network: str, seeds: int, target: float, longest_s: float) -> dict[str, Any]:
    """Every method until the loss is reached, over a slow and thin link; seconds are those of the slower worker."""
    found: dict[str, Any] = {"model": network, "delay_ms": DELAY_MS, "mbits_per_s": MBITS_PER_S, "target": target}
    found["methods"] = {method: [] for method in METHODS}
    with hosts(network, seeds * len(METHODS)) as (net, fleet):
        net.shape(0, delay_ms=DELAY_MS, mbits_per_s=MBITS_PER_S)
        for seed in range(seeds):
            for method in METHODS:
                made = fleet.call("train", method, seed, target, longest_s)
                found["methods"][method].append(made)
                report.progress(f"{method}, seed {seed}: {[(one['seconds'], one['steps']) for one in made]}")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = options.parser("hosts", __doc__)
    parser.add_argument("--model", default="7m", choices=list(HIDDEN))
    parser.add_argument("--batch", type=options.COUNT, default=BATCH_SIZE, help="samples of a step")
    parser.add_argument("--rounds", type=options.COUNT, default=8)
    parser.add_argument("--steps", type=options.COUNT, default=100, help="timed steps a round")
    parser.add_argument("--seeds", type=options.whole(0), default=3, help="of the race; 0 leaves it out")
    parser.add_argument("--target", type=options.above_zero, default=TARGET, help="loss of the race")
    parser.add_argument(
        "--longest", type=options.above_zero, default=60.0, metavar="S", help="seconds after which a race is over"
    )
    given = parser.parse_args(arguments)
    if given.quick:
        small: dict[str, Any] = {"model": "200k", "rounds": 1, "steps": 10, "seeds": 1, "longest": 3.0}
        given = argparse.Namespace(**{**vars(given), **small})
    if why := networks.why_none():
        parser.error(why)
    found = report.machine()
    print(report.describe(found))
    results: dict[str, Any] = {"cost": measure(given.model, given.rounds, given.steps, given.batch)}
    bars = show(results["cost"])
    if given.seeds:
        results["race"] = race(given.model, given.seeds, given.target, given.longest)
        show_race(results["race"])
    print()
    report.finish(given, found, results, bars)


if __name__ == "__main__":
    report.run(main)
