"""`gosgd launch kubernetes`: a manifest for kubectl. Imports launch.manifests, launch.torchrun, trainers and gossip."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Iterator

from configs.files import write_atomically
from gossip.flat import Flat
from launch.errors import DONE
from launch.manifests import KINDS, Pods, text
from launch.plan import shared_memory
from launch.settings import blame
from launch.torchrun import ClusterJob, check_job, prepare, settled
from trainers import data as datasets
from trainers import models, regularization
from trainers.schema import options

MANIFEST = "kubernetes.yaml"
MIB = 1 << 20
_STEP_MIB, _SPARE_MIB = 64, 64
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{unit}i": 1 << 10 * power for power, unit in enumerate("KMGT", start=1)
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(k|[MGT]|[KMGT]i|)")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LONGEST_NAME = 40
"""Of a job: Kubernetes adds to it the names of pods, of which 63 characters are left."""


def run(given: argparse.Namespace) -> int:
    """Write the manifest, print its path and how to submit it.

    Raises:
        ValueError: a mistake in the configuration or in an option.
    """
    job = check_job(given.config, given.overrides, given.nodes, given.workers_per_node, given.gpus_per_node)
    kind = given.kind or ("statefulset" if job.gossip else "trainjob")
    _check(given, job, kind)
    shared = node_memory(job) if given.shared_memory is None else size("--shared-memory", given.shared_memory)
    if given.memory is not None and size("--memory", given.memory) <= shared:
        raise ValueError(
            f"--memory: got {given.memory}, of which {math.ceil(shared / MIB)}Mi are shared memory; expected more"
        )
    name = name_of(job.run.name)
    pods = Pods(
        job=job,
        name=name,
        image=given.image,
        namespace=given.namespace,
        cpus=given.cpus or job.cpus,
        memory=given.memory,
        shared_mib=math.ceil(shared / MIB),
        claim=given.storage_claim,
        secret=given.secret or f"{name}-secret",
        configuration=settled(job, job.run.run.dir or f"runs/{job.run.name}"),
    )
    directory = prepare(job)
    path = directory.path / MANIFEST
    manifest = text(pods, KINDS[kind](pods), path)
    write_atomically(path, lambda draft: draft.write_text(manifest))
    print(path)
    print(f"kubectl apply -f {shlex.quote(str(path))}")
    return DONE


def name_of(run: str) -> str:
    """A run's name as Kubernetes takes it: small letters, digits and hyphens, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")[:_LONGEST_NAME]
    return (name if name[:1].isalpha() else f"job-{name}").strip("-")


def size(option: str, given: str) -> int:
    """Bytes of a quantity such as 64Gi.

    Raises:
        ValueError: it is no such quantity.
    """
    match = _SIZE.fullmatch(given)
    if match is None or not (count := float(match[1]) * _UNITS[match[2]]):
        raise ValueError(f"{option}: got {given!r}, expected a size such as 512Mi or 64Gi")
    return math.ceil(count)


def node_memory(job: ClusterJob) -> int:
    """Bytes for /dev/shm of a pod: what its workers take there, half as much again for growing queues, and some spare.

    Raises:
        ValueError: data or model, on which it depends, cannot be built here.
    """
    run, loaded = job.run, job.loaded
    with blame(loaded, "data"):
        try:
            data = datasets.build(run.data)
        except ValueError as error:
            raise ValueError(f"{error}; without data here, give --shared-memory") from error
    with blame(loaded, "model"):
        model = models.build(run.model, data.shape, data.classes)
        regularizers = regularization.build(run, model, data)
        vector = Flat(regularization.travelling(run, model, regularizers)).vector
    data.close()
    exchange = job.method.Options.of(**options(run.exchange, "method"))
    parts = {None: 0, "process": 1, "sharded": job.each}[exchange.serving]
    # Messages from other hosts are kept here until they are merged.
    slots = getattr(exchange, "slots", 0) * (1 + job.gossip_between_nodes)
    # The server's pod has the desks of all; the same for every pod, because any may be the first.
    workers = job.each * (job.nodes if exchange.serving else 1)
    needed = shared_memory(workers, run.run.max_workers, vector.numel() * vector.element_size(), slots, parts)
    return math.ceil((1.5 * needed / MIB + _SPARE_MIB) / _STEP_MIB) * _STEP_MIB * MIB


def _check(given: argparse.Namespace, job: ClusterJob, kind: str) -> None:
    if kind == "statefulset" and not job.gossip:
        raise ValueError(
            f"--kind: got statefulset with exchange.method {job.run.exchange.method}, expected trainjob or pytorchjob:"
            " its workers cannot come back alone"
        )
    if given.cpus is not None and given.cpus < 1:
        raise ValueError(f"--cpus: got {given.cpus}, expected 1 or more")
    for option, value in _names(given):
        if value is not None and not _LABEL.fullmatch(value):
            raise ValueError(f"--{option}: got {value!r}, expected small letters, digits and hyphens")
    if not given.image or re.search(r"\s", given.image):
        raise ValueError(f"--image: got {given.image!r}, expected the name of an image")


def _names(given: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    for option in ("namespace", "storage_claim", "secret"):
        yield option.replace("_", "-"), getattr(given, option)
