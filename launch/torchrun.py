"""A job on several nodes, and the arguments with which torchrun starts its workers there.

Imports launch.settings, trainers and gossip. torchrun has two ways to bring nodes together: the static one fixes each
node's rank, so that a node can come back alone as the one it was; c10d hands ranks out anew and starts all workers
again, which is what the workers of a collective method need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gossip
from configs import Loaded, dump
from configs.files import private_folder
from gossip.methods import Exchange
from gossip.server.protocol import check_hosts
from launch.settings import blame, read, run_folder
from trainers.run_directory import RunDirectory
from trainers.schema import Run, options

PORT = 29500
JOIN_S = 600
"""How long torchrun on one node waits for the others."""


@dataclass(frozen=True)
class ClusterJob:
    """A job that has been checked as far as that can be done anywhere.

    Attributes:
        loaded: the configuration, with workers and run directory filled in.
        method: of the exchange.
        nodes: how many.
        each: workers of a node.
        gpus: whether each has one.
        gossip: whether a worker can be lost and come back, and the others go on meanwhile.
    """

    loaded: Loaded[Run]
    method: type[Exchange]
    nodes: int
    each: int
    gpus: bool
    gossip: bool

    @property
    def run(self) -> Run:
        """The configuration."""
        return self.loaded.config

    @property
    def directory(self) -> RunDirectory:
        """Of the run, as this machine sees it."""
        return RunDirectory(run_folder(self.run, "auto"))

    @property
    def cpus(self) -> int:
        """That a node needs: each worker's threads and loader processes, and one that feeds its GPU."""
        return self.each * (self.run.train.threads + getattr(self.run.data, "loader_workers", 0) + self.gpus)

    @property
    def gossip_between_nodes(self) -> bool:
        """Whether there are one-sided transfers over the network, which need the cluster extra."""
        return self.gossip and self.nodes > 1

    def describe(self) -> str:
        """For the first line of what is written."""
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        workers = "1 worker" if self.each == 1 else f"{self.each} workers"
        return f"{self.run.name}: {self.run.exchange.method} on {nodes} with {workers} each"

    def arguments(self, name: str, address: str, port: str | int, rank: str | int) -> list[str]:
        """What torchrun is given on a node.

        Args:
            name: of the job, the same on all nodes.
            address: of the node with rank 0, as all nodes see it.
            port: of torchrun's store there.
            rank: of the node; not needed where torchrun hands it out.
        """
        shape = [f"--nnodes={self.nodes}", f"--nproc-per-node={self.each}", f"--max-restarts={self.run.run.restarts}"]
        if self.method.collective:
            where = ["--rdzv-backend=c10d", f"--rdzv-endpoint={address}:{port}"]
            return [*shape, f"--rdzv-id={name}", f"--rdzv-conf=join_timeout={JOIN_S}", *where]
        return [
            *shape,
            f"--rdzv-id={name}",
            f"--rdzv-conf=timeout={JOIN_S}",
            f"--node-rank={rank}",
            f"--master-addr={address}",
            f"--master-port={port}",
        ]


def check_job(
    config: str, overrides: Sequence[str], nodes: int, each: int | None, gpus: int | None = None
) -> ClusterJob:
    """Check a configuration and that its method fits so many workers on so many nodes.

    Args:
        config: a file or the name of a recipe.
        overrides: `key=value` each.
        nodes: how many.
        each: workers of a node on CPUs; `run.workers` where neither this nor `gpus` is given.
        gpus: of a node, each of which gets a worker.

    Raises:
        ValueError: a mistake in the configuration, or numbers that do not fit it.
    """
    if nodes < 1:
        raise ValueError(f"got {nodes} nodes, expected 1 or more")
    first = read(config, overrides) if gpus is None and each is None else None
    count = first.config.run.workers if first is not None else gpus or each or 0
    if count < 1 or (gpus is not None and gpus < 1):
        raise ValueError(f"got {count} workers on a node, expected 1 or more")
    loaded = read(config, overrides, nodes * count)
    run = loaded.config
    method = gossip.METHODS.get(run.exchange.method)
    with blame(loaded, "exchange"):
        exchange = method.Options.of(**options(run.exchange, "method"))
        exchange.check(run.run.workers)
        if nodes > 1:
            check_hosts(exchange.serving)
    variant = method.variant(exchange)
    return ClusterJob(
        loaded, variant, nodes, count, gpus is not None, gossip=variant.rejoins and exchange.serving is None
    )


def prepare(job: ClusterJob) -> RunDirectory:
    """Make the run directory, for what starts the job to be written to.

    Raises:
        ValueError: it cannot be made or written to.
    """
    directory = job.directory
    directory.check(resume=True)
    try:
        private_folder(directory.path)
        private_folder(directory.logs)
    except OSError as error:
        raise ValueError(f"run.dir: got {directory.path}, which cannot be made ({error.strerror})") from None
    return directory


def settled(job: ClusterJob, directory: str) -> str:
    """The configuration as YAML, with every default filled in, for workers that start elsewhere.

    Args:
        directory: of the run, as the workers see it.
    """
    return dump(job.run.model_copy(update={"run": job.run.run.model_copy(update={"dir": directory})}))
