"""The simulator: conventions, invariants over random schedules, what goes wrong, and cost that does not grow with M."""

import sys
import tracemalloc
from bisect import bisect
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.mass import TOTAL
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.matrix import MatrixConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig
from gossip.simulate import Simulation, compare, simulate
from gossip.virtual import ConstantWeightConfig, PairwiseConfig
from gossip.virtual.others import Others
from gossip.world import Logistic, Quadratic, World

pytestmark = pytest.mark.timeout(120)

CONFIGS = [
    NoneConfig(),
    FullySyncConfig(),
    PerSynConfig(rho=0.4),
    EASGDConfig(tau=2),
    EASGDConfig(tau=2, order="before_gradient"),
    EASGDConfig(alpha=0.3, tau=2, mode="async"),
    DownpourConfig(n_fetch=2, n_push=3),
    GoSGDConfig(rho=0.5),
    GoSGDConfig(rho=0.5, peers="ring"),
    GoSGDConfig(rho=0.5, peers="exponential"),
    GoSGDConfig(rho=0.5, peers="adaptive"),
    PairwiseConfig(rho=0.5),
    ConstantWeightConfig(rho=0.5, weight=0.4),
    MatrixConfig(schedule="test_simulate:ring_matrix"),
]
worlds = st.builds(
    World,
    workers=st.integers(1, 6),
    dimension=st.just(2),
    steps=st.integers(1, 25),
    clock=st.sampled_from(["round", "tick"]),
    delivery=st.sampled_from(["instant", "queued"]),
    repeats=st.integers(1, 2),
    seed=st.integers(0, 1000),
    slow_fraction=st.sampled_from([0.0, 0.5]),
    slow_probability=st.just(0.3),
    dead_fraction=st.sampled_from([0.0, 0.4]),
    dead_from=st.just(7),
    dtype=st.just(np.float64),
)


def ring_matrix(step, workers):
    """A user's schedule: every second step the mean with the next worker."""
    return None if step % 2 else (np.eye(workers) + np.roll(np.eye(workers), 1, 1)) / 2


def steps_of(simulation, generator=None):
    """Go through all steps, with no local updates unless there is a generator; yields after each."""
    world = simulation.world
    draws = np.random.default_rng(world.seed)
    for step in range(world.steps):
        shape = (world.repeats, world.workers, world.dimension)
        if world.clock == "tick":
            shape = (world.repeats, world.dimension)
        noise = np.zeros(shape) if generator is None else generator.standard_normal(shape)
        if world.clock == "tick":
            simulation.tick(step, draws.integers(world.workers, size=world.repeats), noise)
        else:
            simulation.round(step, noise)
        yield


@pytest.mark.parametrize(("delivery", "promised"), [("instant", 28), ("queued", 36)])
def test_eight_workers_under_rounds_hold_the_level_of_their_delivery(delivery, promised):
    world = World(8, 16, 200, delivery=delivery, repeats=50, seed=1)
    level, sem = simulate(GoSGDConfig(rho=0.4), world, range(60, 201)).level()
    assert abs(level / 16 - promised) < 1.0 and sem / 16 < 0.7


@settings(max_examples=60)
@given(st.sampled_from(CONFIGS), worlds)
def test_a_consensus_is_a_fixed_point_of_every_method(config, world):
    world = World(**{**vars(world), "start": 1.5})
    simulation = Simulation(config, world)
    if isinstance(config, DownpourConfig):
        simulation.table.array[:, world.workers + 1 :] = 0.0  # accumulators
    for _ in steps_of(simulation):
        np.testing.assert_allclose(simulation.weights, 1.5, atol=1e-12)
        np.testing.assert_allclose(simulation.error(), 0.0, atol=1e-12)


@settings(max_examples=60)
@given(
    worlds, st.sampled_from([(0, 0), (0, 3), (2, 2)]), st.sampled_from(["uniform", "ring", "exponential", "adaptive"])
)
def test_mass_and_the_weighted_sum_are_kept_at_every_instant(world, delays, peers):
    world = World(**{**vars(world), "delays": delays})
    simulation = Simulation(GoSGDConfig(rho=0.6, peers=peers), world)
    generator = np.random.default_rng(world.seed)
    simulation.table.array[:] = generator.standard_normal(simulation.table.array.shape)
    method = simulation.method

    def weighted(repeat):
        rows = simulation.table.rows[repeat]
        held = [(row, int(shares)) for row, shares in enumerate(method.shares[repeat])]
        held += [(message.row, message.shares) for message in method.in_flight(repeat)]
        assert sum(shares for _, shares in held) == TOTAL
        return sum(shares / TOTAL * rows[row] for row, shares in held)

    before = [weighted(repeat) for repeat in range(world.repeats)]
    for _ in steps_of(simulation):
        for repeat in range(world.repeats):
            np.testing.assert_allclose(weighted(repeat), before[repeat], atol=1e-12)


@settings(max_examples=30)
@given(st.sampled_from([c for c in CONFIGS if not isinstance(c, MatrixConfig)]), worlds)
def test_a_run_is_repeated_by_its_seed_and_measured_without_a_trace(config, world):
    once, again = simulate(config, world), simulate(config, world, [world.steps])
    assert once.errors.shape == (world.repeats, world.steps)
    np.testing.assert_array_equal(once.errors[:, -1:], again.errors)
    beside = compare([NoneConfig(), config], world)[1]
    np.testing.assert_array_equal(once.errors, beside.errors)


def test_the_error_is_the_sum_of_squares_about_the_mean_of_the_workers():
    simulation = Simulation(EASGDConfig(), World(3, 4, 1, repeats=2))
    simulation.table.array[:] = np.random.default_rng(0).standard_normal(simulation.table.array.shape) + 1000
    w = simulation.weights.astype(np.float64)
    np.testing.assert_allclose(simulation.error(), ((w - w.mean(1, keepdims=True)) ** 2).sum((1, 2)), rtol=1e-5)


def test_dead_workers_keep_still_and_get_no_mail():
    world = World(10, 3, 60, delivery="queued", dead_fraction=0.3, dead_from=20, seed=4)
    simulation = Simulation(GoSGDConfig(rho=0.5), world)
    generator = np.random.default_rng(0)
    for step, _ in enumerate(steps_of(simulation, generator)):
        if step == 20:  # mail on its way at the death stays unread
            still = simulation.weights[0, simulation.dead].copy()
            unread = [message for message in simulation.method.in_flight(0) if message.receiver in simulation.dead]
    np.testing.assert_array_equal(simulation.weights[0, simulation.dead], still)
    assert len(simulation.dead) == 3
    left = [message for message in simulation.method.in_flight(0) if message.receiver in simulation.dead]
    assert left == unread
    assert simulation.counts[0, simulation.dead].max() == 20 and simulation.counts.sum() == 10 * 20 + 7 * 40


@pytest.mark.parametrize("clock", ["round", "tick"])
def test_slow_workers_step_less_often(clock):
    world = World(10, 2, 400 if clock == "round" else 4000, clock=clock, slow_fraction=0.2, slow_probability=0.25)
    simulation = Simulation(GoSGDConfig(rho=0.1), world)
    for _ in steps_of(simulation):
        pass
    slow = simulation.counts[0, simulation.slow].mean()
    fast = np.delete(simulation.counts[0], simulation.slow).mean()
    assert len(simulation.slow) == 2 and slow / fast == pytest.approx(0.25, abs=0.07)
    assert simulation.events == simulation.counts.sum()


def test_late_messages_raise_the_error():
    levels = [
        simulate(GoSGDConfig(rho=0.4), World(8, 16, 150, delays=delays, repeats=20), range(50, 151)).level()
        for delays in ((0, 0), (3, 3), (10, 10))
    ]
    for (early, first), (late, second) in pairwise(levels):
        assert late - early > 3 * (first**2 + second**2) ** 0.5


def test_peers_of_a_ring_of_an_exponential_graph_and_of_ones_own():
    sent = []

    def next_but_one(seats, seat, count, generator):
        sent.append((seat, count))
        return seats[(bisect(seats, seat) + 1) % len(seats)]

    simulate(GoSGDConfig(rho=1.0, peers=next_but_one), World(5, 1, 3))
    assert Counter(worker for worker, _ in sent) == dict.fromkeys(range(5), 3)
    assert {count for worker, count in sent if worker == 0} == {0, 1, 2}
    for peers, distances in (("ring", [1, 1, 1, 1]), ("exponential", [1, 2, 4, 1])):
        method = Simulation(GoSGDConfig(rho=1.0, peers=peers), World(8, 1, 1)).method
        assert [(method.peer(0, 6) - 6) % 8 for _ in range(4)] == distances
    with pytest.raises(ValueError, match="got 7, expected None or one of the given seats"):
        simulate(GoSGDConfig(rho=1.0, peers=lambda *_: 7), World(5, 1, 3))


@pytest.mark.parametrize(("delivery", "ratio"), [("instant", 0.7), ("queued", 0.8)])
@pytest.mark.parametrize("rho", [0.1, 0.4])
def test_adaptive_peers_hold_the_workers_closer_for_the_same_messages(rho, delivery, ratio):
    world = World(8, 16, 400, repeats=8, delivery=delivery, seed=3)
    uniform, adaptive = compare([GoSGDConfig(rho=rho), GoSGDConfig(rho=rho, peers="adaptive")], world)
    assert adaptive.messages == pytest.approx(rho, rel=0.05)
    (usual, spread), (level, _) = uniform.level(100), adaptive.level(100)
    assert level < ratio * (usual - 3 * spread)


@given(st.sets(st.integers(0, 30), min_size=2), st.data())
def test_others_are_all_but_one(workers, data):
    ordered = sorted(workers)
    one = data.draw(st.sampled_from(ordered))
    expected = [worker for worker in ordered if worker != one]
    for others in (Others(ordered, one), Others(range(31), one)):
        wanted = expected if len(others) == len(expected) else [worker for worker in range(31) if worker != one]
        assert list(others) == wanted
        assert others[-1] == wanted[-1]
        assert all((worker in others) == (worker in wanted) for worker in range(-1, 40))


@pytest.mark.parametrize("clock", ["round", "tick"])
@pytest.mark.parametrize("config", [c for c in CONFIGS if not isinstance(c, NoneConfig)], ids=str)
def test_every_method_minimises_a_quadratic_and_a_logistic_loss(config, clock):
    generator = np.random.default_rng(1)
    x = generator.standard_normal((60, 3))
    y = np.where(x @ [1.0, -2.0, 0.5] + 0.3 * generator.standard_normal(60) > 0, 1.0, -1.0)
    quadratic = Quadratic(np.array([0.5, 1.0, 2.0]), np.array([3.0, -1.0, 2.0]))
    logistic = Logistic(x, y, decay=0.1)
    # Downpour's central variable takes M times the step.
    step_size = 0.03 if isinstance(config, DownpourConfig) else 0.2
    for objective in (quadratic, logistic):
        steps = 2400 if clock == "tick" else 600
        world = World(
            4, 3, steps, clock=clock, variance=1e-4, objective=objective, step_size=step_size, dtype=np.float64
        )
        simulation = Simulation(config, world)
        for _ in steps_of(simulation):
            pass
        w = simulation.weights[0].mean(0)
        assert np.abs(objective.gradient(w)).max() < 0.02, (objective, w)


def test_the_gradient_of_a_logistic_loss_is_its_slope():
    generator = np.random.default_rng(2)
    x, y, w = (
        generator.standard_normal((9, 3)),
        np.sign(generator.standard_normal(9)),
        generator.standard_normal((2, 3)),
    )
    objective = Logistic(x, y, decay=0.2)

    def loss(w):
        return np.log1p(np.exp(-y * (x @ w))).mean() + 0.1 * (w @ w)

    slope = [[(loss(one + e) - loss(one - e)) / 2e-6 for e in 1e-6 * np.eye(3)] for one in w]
    np.testing.assert_allclose(objective.gradient(w), slope, atol=1e-8)


def test_before_gradient_takes_the_gradient_at_the_weights_before_the_elastic_move():
    objective = Quadratic(np.array([1.0]), np.array([0.0]))
    for order, expected in (("after_step", 0.75 * 0.9 * 2.0), ("before_gradient", 0.75 * 2.0 - 0.2)):
        world = World(2, 1, 1, variance=0.0, objective=objective, step_size=0.1, dtype=np.float64)
        simulation = Simulation(EASGDConfig(alpha=0.25, tau=1, order=order), world)
        simulation.table.array[:, :2] = 2.0
        simulation.round(0, np.zeros((1, 2, 1)))
        np.testing.assert_allclose(simulation.weights, expected)


@pytest.mark.parametrize("delivery", ["instant", "queued"])
@pytest.mark.parametrize(
    "config",
    [
        GoSGDConfig(rho=0.5),
        PairwiseConfig(rho=0.5),
        EASGDConfig(alpha=0.3, tau=1, mode="async"),
        DownpourConfig(n_fetch=1, n_push=1),
    ],
    ids=lambda config: config.method,
)
def test_the_cost_of_an_event_does_not_depend_on_the_number_of_workers(config, delivery):
    """Functions called, and memory taken, by the same number of wake-ups among 100 and among a million workers."""
    calls, memory = [], []
    for workers in (100, 1_000_000):
        steps = steps_of(Simulation(config, World(workers, 1, 800, clock="tick", delivery=delivery, seed=3)))
        tracemalloc.start()
        for _ in range(400):
            next(steps)
        memory.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        events = Counter()
        sys.setprofile(lambda frame, event, argument, events=events: events.update((event,)))
        for _ in range(400):
            next(steps)
        sys.setprofile(None)
        calls.append(events.total())
    assert 0 < calls[1] <= 1.2 * calls[0]
    assert memory[1] < memory[0] + 200_000  # mail in flight; a byte a worker would be a million


def test_a_million_workers_fit():
    result = simulate(GoSGDConfig(rho=0.1), World(1_000_000, 16, 200, clock="tick"), [200])
    assert result.events == 200 and result.microseconds_per_event > 0
    assert result.nbytes < 100 * 2**20
    assert result.mean[0] == pytest.approx(200 * 16, rel=0.1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: World(0, 1, 1), "got workers=0, expected at least 1"),
        (lambda: World(2, 1, 0), "got steps=0, expected at least 1"),
        (lambda: World(2, 1, 1, clock="tock"), "got clock='tock', expected round or tick"),
        (lambda: World(2, 1, 1, delivery="late"), "got delivery='late', expected instant or queued"),
        (lambda: World(2, 1, 1, variance=-1.0), "got variance=-1.0"),
        (lambda: World(2, 1, 1, variance=float("nan")), "got variance=nan"),
        (lambda: World(2, 1, 1, dead_fraction=1.0), "expected one to live"),
        (lambda: World(2, 1, 1, slow_probability=1.5), "got slow_probability=1.5, expected 0 to 1"),
        (lambda: World(2, 1, 1, delays=(2, 1)), r"got delays=\(2, 1\)"),
        (lambda: simulate(PerSynConfig(tau=2), World(2, 1, 1, delays=(0, 1))), "only .*gosgd.* send messages"),
        (lambda: simulate(EASGDConfig(alpha=0.9), World(2, 1, 1)), "got alpha=0.9 for 2 workers.*diverge"),
        (lambda: simulate(NoneConfig(), World(2, 1, 3), [4]), "got steps 4 to 4 to measure at, expected 1 to 3"),
        (lambda: PerSynConfig.of(tau=0), "tau: got 0"),
        (lambda: PerSynConfig.of(rho=1.5), r"rho: got 1\.5"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
