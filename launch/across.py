"""How the hosts of a job under torchrun come to the same configuration, or refuse. Imports gossip, trainers, configs.

Rank 0 says what it is about to run, the lowest worker of every other host compares this with what its own command line
asks for and answers, and nobody begins before all have agreed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import gossip
from configs import ConfigError
from configs.load import dump
from gossip.hosts import PATIENCE_S, Hosts
from gossip.server.protocol import check_hosts
from gossip.transports.nixl import check_installed
from launch.plan import Plan
from launch.settings import read
from trainers.run_directory import RunDirectory, packages
from trainers.schema import Run, options

_OURS = ("gosgd", "torch")


def propose(hosts: Hosts, plan: Plan | None) -> list[str]:
    """Tell the other hosts what is to be run; None if it is not.

    Returns:
        What they have against it.

    Raises:
        ValueError: something is missing on this host.
    """
    if plan is None:
        hosts.tell("plan", None)
        return []
    _check(plan.run)
    versions = {name: packages()[name] for name in _OURS}
    directory = str(plan.directory.path.absolute())
    hosts.tell("plan", {"config": dump(plan.run), "versions": versions, "directory": directory, "resume": plan.resume})
    objections = []
    for leader in hosts.leaders()[1:]:
        try:
            objections.append(hosts.hear(f"answer/{leader}", PATIENCE_S))
        except TimeoutError:
            objections.append(f"worker {leader}'s host has not answered within {PATIENCE_S:.0f} s")
    objections = [objection for objection in objections if objection]
    hosts.tell("verdict", not objections)
    return objections


def consider(hosts: Hosts, rank: int, config: str, overrides: Sequence[str], workers: int) -> dict[str, Any]:
    """Compare what rank 0 is about to run with what is asked for here; what is written down for this host's workers.

    Returns:
        The run directory and whether to go on from checkpoints, or that the job is refused, and why if it is so here.
    """
    told = hosts.hear("plan", PATIENCE_S)
    if told is None:
        return {"refused": True}
    objection = ""
    try:
        _prepare(told, config, overrides, workers)
    except (ValueError, OSError) as error:
        objection = str(error)
    hosts.tell(f"answer/{rank}", objection)
    if objection or not hosts.hear("verdict", PATIENCE_S):
        return {"refused": True, "because": objection}
    return {"directory": told["directory"], "resume": told["resume"]}


def _prepare(told: dict[str, Any], config: str, overrides: Sequence[str], workers: int) -> None:
    loaded = read(config, overrides, workers)
    _check(loaded.config)
    for name, version in told["versions"].items():
        if (here := packages()[name]).partition("+")[0] != version.partition("+")[0]:  # what it is built for may differ
            raise ConfigError(f"got {name} {here} on this host and {version} on worker 0's, expected one version")
    mine, theirs = (dict(_leaves(yaml.safe_load(text))) for text in (dump(loaded.config), told["config"]))
    for key in [*mine, *(theirs.keys() - mine.keys())]:
        if mine.get(key) != theirs.get(key) and key != "run.dir":
            raise ConfigError(
                f"{loaded.path}: {key}: got {mine.get(key)!r} on this host and {theirs.get(key)!r} on worker 0's,"
                " expected the same configuration on every host"
            )
    directory = RunDirectory(Path(told["directory"]))
    if not directory.resolved.is_file() or directory.resolved.read_text() != told["config"]:
        directory.check(told["resume"])  # no folder that the hosts share
        directory.prepare(loaded, workers)


def _check(run: Run) -> None:
    method = gossip.METHODS.get(run.exchange.method)
    if issubclass(method, gossip.GoSGD):
        check_installed()
    try:
        check_hosts(method.Options.of(**options(run.exchange, "method")).serving)
    except ValueError as error:
        raise ConfigError(f"exchange: {error}") from None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
