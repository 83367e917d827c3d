"""The consensus error that is to be expected of a method under random updates, where it is known exactly.

epsilon(t) = sum_m ||w_m - mean||^2 after t steps from a consensus, with N(0, sigma^2) in place of -eta times the
gradient (thesis section 2.5.1). GoSGD has no closed recursion, because the ratio of its masses is
random: its stationary level is simulated. Imports gossip.recursions and gossip.simulate.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossip.methods.base import MethodConfig
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig
from gossip.moves import Average, Copy, Elastic, Flush, Merge, Move
from gossip.recursions import Alternatives, Recursion, Step
from gossip.simulate import simulate
from gossip.virtual import ConstantWeightConfig, PairwiseConfig
from gossip.world import Clock, DeliveryName, World

_LONGEST_PERIOD = 100_000
_MOST_WORKERS = 2000
"""Workers up to which covariances, (M + 1)^2 numbers, are gone through."""
_MOST_GOSSIPING = 64
"""Workers up to which a round of gossip is written out: it has M (M - 1) possible moves."""
_SIMULATED_DIMENSION = 16
_SIMULATED_REPEATS = 32
_MOST_EVENTS = 12_000_000


class Level(NamedTuple):
    """A stationary consensus error per dimension and variance.

    Attributes:
        value: epsilon / (D sigma^2), averaged over the method's period; infinite where it grows without bound.
        sem: standard error where it was simulated, None where it is exact.
    """

    value: float
    sem: float | None


def expected(
    config: MethodConfig,
    workers: int,
    dimension: int,
    steps: int,
    clock: Clock = "round",
    delivery: DeliveryName = "instant",
    variance: float = 1.0,
) -> NDArray[np.float64] | None:
    """E epsilon after each of the first `steps` steps, or None where no exact recursion is known (or M is too large).

    - none: (M - 1) D sigma^2 t; a tick is 1/M of a step.
    - PerSyn: (M - 1) D sigma^2 s, with s steps since the last synchronisation. Fully synchronous: 0.
    - EASGD, downpour, gossip with a constant weight, symmetric pairwise gossip: C <- K (C + Q) K^T.

    Args:
        config: the method's options.
        workers: M.
        dimension: D.
        steps: rounds, or single wake-ups under `tick`.
        clock: see gossip.simulate.
        delivery: see gossip.simulate; only gossip by messages depends on it.
        variance: sigma^2 of a coordinate of the updates.

    Returns:
        [steps].
    """
    scale = dimension * variance
    if isinstance(config, NoneConfig | PerSynConfig):
        return scale * (workers - 1) * _since(config, workers, steps, clock)
    if isinstance(config, FullySyncConfig):
        return np.zeros(steps)
    recursion = _recursion(config, workers, clock, delivery)
    return None if recursion is None else scale * recursion.expected(steps)


def stationary(
    config: MethodConfig, workers: int, clock: Clock = "round", delivery: DeliveryName = "instant", seed: int = 0
) -> Level | None:
    """The consensus error in the long run, per dimension and variance of the updates.

    Args:
        config: the method's options.
        workers: M.
        clock: see gossip.simulate.
        delivery: see gossip.simulate.
        seed: of the simulation that stands in where no exact value is known.

    Returns:
        None where it is not known and reaching it by simulation would take more than seconds.
    """
    if workers == 1 or isinstance(config, FullySyncConfig):
        return Level(0.0, None)
    if _never_meets(config):
        return Level(math.inf, None)
    if isinstance(config, PerSynConfig):
        period = workers * _period(config) if clock == "tick" else _period(config)
        since = _since(config, workers, period, clock)
        return Level(float((workers - 1) * since.mean()), None)
    recursion = _recursion(config, workers, clock, delivery)
    if recursion is not None:
        return Level(recursion.stationary(), None)
    return _simulated(config, workers, clock, delivery, seed)


def _never_meets(config: MethodConfig) -> bool:
    return isinstance(config, NoneConfig) or getattr(config, "rho", None) == 0


def _period(config: PerSynConfig) -> int:
    """Steps after which the schedule repeats, or enough of them for the mean."""
    if config.tau is not None:
        return config.tau
    return min(_LONGEST_PERIOD, Fraction(str(config.rho)).denominator)


def _since(config: NoneConfig | PerSynConfig, workers: int, steps: int, clock: Clock) -> NDArray[np.float64]:
    """[steps] local steps of a worker since the last meeting, on average over the workers."""
    found, last = np.empty(steps), 0
    per_round = workers if clock == "tick" else 1
    for done in range(1, steps + 1):
        whole, rest = divmod(done, per_round)
        if isinstance(config, PerSynConfig) and rest == 0 and config.synchronises(whole - 1):
            last = done
        found[done - 1] = (done - last) / per_round
    return found


def _recursion(config: MethodConfig, workers: int, clock: Clock, delivery: DeliveryName) -> Recursion | None:
    if workers > _MOST_WORKERS:
        return None
    if isinstance(config, EASGDConfig):
        return _easgd(config, workers, clock)
    if isinstance(config, DownpourConfig):
        return _downpour(config, workers, clock)
    if workers > 1 and (
        isinstance(config, PairwiseConfig) or (isinstance(config, ConstantWeightConfig) and delivery == "instant")
    ):
        return _gossip(config, workers, clock)
    return None


def _everybody(workers: int) -> range:
    return range(1, workers + 1)


def _surely(*moves: Move) -> list[Alternatives]:
    return [[(1.0, move)] for move in moves]


def _easgd(config: EASGDConfig, workers: int, clock: Clock) -> Recursion | None:
    alpha, everybody = config.rate(workers), _everybody(workers)
    updated: range | list[int] = everybody if clock == "round" else [1]
    still = Step([], updated, [])
    if config.mode == "sync":
        moves = _surely(Elastic(everybody, 0, alpha))
        length = config.tau if clock == "round" else config.tau * workers
    else:
        # Who has made how many steps matters under `tick`, and is known only where every step moves.
        if clock == "tick" and config.tau > 1:
            return None
        moves = _surely(*(Elastic((worker,), 0, alpha) for worker in updated))
        length = config.tau
    moving = Step(moves, updated, []) if config.order == "before_gradient" else Step([], updated, moves)
    return Recursion(workers, [still] * (length - 1) + [moving])


def _downpour(config: DownpourConfig, workers: int, clock: Clock) -> Recursion | None:
    if clock == "tick" and (config.n_fetch, config.n_push) != (1, 1):
        return None
    updated: range | list[int] = _everybody(workers) if clock == "round" else [1]
    fetch = _surely(*(Copy(worker, 0) for worker in updated))
    push = _surely(*(Flush(0, workers + worker) for worker in updated))
    kinds = {
        (fetches, pushes): Step(fetch if fetches else [], updated, push if pushes else [])
        for fetches in (False, True)
        for pushes in (False, True)
    }
    length = math.lcm(config.n_fetch, config.n_push)
    steps = [kinds[step % config.n_fetch == 0, (step + 1) % config.n_push == 0] for step in range(length)]
    return Recursion(workers, steps, accumulators=True)


def _gossip(config: PairwiseConfig | ConstantWeightConfig, workers: int, clock: Clock) -> Recursion | None:
    def move(sender: int, receiver: int) -> Move:
        if isinstance(config, PairwiseConfig):
            return Average((sender, receiver))
        return Merge(receiver, sender, config.weight)

    if clock == "tick":  # the others are alike: worker 2 stands for whichever it is
        return Recursion(workers, [Step([], [1], [[(config.rho, move(1, 2))]])])
    if workers > _MOST_GOSSIPING:
        return None
    everybody, chance = _everybody(workers), config.rho / (workers - 1)
    turns = [[(chance, move(sender, other)) for other in everybody if other != sender] for sender in everybody]
    return Recursion(workers, [Step([], everybody, turns)])


def _simulated(config: MethodConfig, workers: int, clock: Clock, delivery: DeliveryName, seed: int) -> Level | None:
    """Averaged over the second half of a run of 40 exchanges a worker, in few dimensions: all of them are alike."""
    rate = _rate(config)
    if rate is None:
        return None
    rounds = math.ceil(max(200, 40 / rate))
    steps = rounds * workers if clock == "tick" else rounds
    if steps * _SIMULATED_REPEATS * (1 if clock == "tick" else workers) > _MOST_EVENTS:
        return None
    world = World(
        workers,
        _SIMULATED_DIMENSION,
        steps,
        clock=clock,
        delivery=delivery,
        repeats=_SIMULATED_REPEATS,
        seed=seed,
    )
    stride = max(1, steps // 2000) | 1
    value, sem = simulate(config, world, range(steps // 2, steps + 1, stride)).level()
    return Level(value / _SIMULATED_DIMENSION, None if sem is None else sem / _SIMULATED_DIMENSION)


def _rate(config: MethodConfig) -> float | None:
    """Exchanges of a worker per step."""
    if isinstance(config, GoSGDConfig | ConstantWeightConfig | PairwiseConfig):
        return config.rho
    if isinstance(config, EASGDConfig):
        return 1 / config.tau
    if isinstance(config, DownpourConfig):
        return 1 / max(config.n_fetch, config.n_push)
    return None
