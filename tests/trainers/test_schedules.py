"""Schedules are pure functions of the step with values in (0, 1]; the learning rate follows them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from configs.base import Custom
from trainers.schedules import (
    SCHEDULES,
    ConstantConfig,
    CosineConfig,
    ExponentialConfig,
    LearningRate,
    MultistepConfig,
    build,
)

ADAPTER = TypeAdapter(SCHEDULES.field())
WARMUPS = st.integers(0, 50)
GAMMAS = st.floats(0.001, 1)
MOMENTS = st.one_of(st.integers(1, 2000), st.floats(0.001, 0.999))
CONFIGS = st.one_of(
    st.builds(ConstantConfig, warmup=WARMUPS),
    st.builds(MultistepConfig, warmup=WARMUPS, gamma=GAMMAS, milestones=st.lists(MOMENTS, min_size=1, max_size=5)),
    st.builds(ExponentialConfig, warmup=WARMUPS, gamma=GAMMAS, every=MOMENTS),
    st.builds(CosineConfig, warmup=WARMUPS, floor=st.floats(0.001, 1)),
)
TOTALS = st.integers(1, 2000)
STEPS = st.integers(0, 5000)


@settings(max_examples=200, deadline=2000)
@given(config=CONFIGS, total=TOTALS, steps=st.lists(STEPS, min_size=2, max_size=8))
def test_factor_depends_on_the_step_alone_and_stays_in_range(config, total, steps):
    schedule = build(config)
    factors = {step: schedule(step, total) for step in steps}
    assert all(0 < factor <= 1 for factor in factors.values())
    assert all(build(config)(step, total) == factors[step] for step in reversed(steps))


@settings(max_examples=200, deadline=2000)
@given(config=CONFIGS, total=TOTALS, step=STEPS)
def test_factor_never_rises_after_the_warm_up(config, total, step):
    schedule = build(config)
    assert schedule(config.warmup + step + 1, total) <= schedule(config.warmup + step, total)


@settings(max_examples=200, deadline=2000)
@given(warmup=st.integers(1, 500), total=TOTALS, floor=st.floats(0.001, 1), step=STEPS)
def test_warm_up_is_a_straight_line_that_meets_the_full_rate(warmup, total, floor, step):
    for config in (ConstantConfig(warmup=warmup), CosineConfig(warmup=warmup, floor=floor)):
        schedule = build(config)
        assert schedule(0, total) == pytest.approx(1 / (warmup + 1))
        early = step % warmup
        assert schedule(early + 1, total) - schedule(early, total) == pytest.approx(1 / (warmup + 1))
        assert schedule(warmup, total) == pytest.approx(1)


@settings(max_examples=200, deadline=2000)
@given(milestones=st.lists(st.integers(1, 2000), min_size=1, max_size=5), gamma=st.floats(0.1, 1), step=STEPS)
def test_multistep_counts_the_milestones_behind(milestones, gamma, step):
    factor = build(MultistepConfig(milestones=milestones, gamma=gamma))(step, 1000)
    assert factor == pytest.approx(gamma ** len([milestone for milestone in milestones if milestone <= step]))


def test_fractions_are_shares_of_the_run():
    schedule = build(MultistepConfig(milestones=[0.5, 900], gamma=0.1))
    assert [round(schedule(step, 1000), 9) for step in (499, 500, 899, 900)] == [1, 0.1, 0.1, 0.01]
    assert build(ExponentialConfig(gamma=0.5, every=0.25))(750, 1000) == 0.125


def test_exponential_decays_once_every_so_many_steps():
    schedule = build(ExponentialConfig(gamma=0.5, every=10))
    assert [schedule(step, 1000) for step in (0, 9, 10, 25)] == [1, 1, 0.5, 0.25]
    assert schedule(10**6, 1000) > 0


def test_cosine_goes_from_one_to_its_floor_and_stays_there():
    schedule = build(CosineConfig(warmup=100, floor=0.2))
    assert schedule(600, 1100) == pytest.approx(0.6)
    assert schedule(350, 1100) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule(1100, 1100) == schedule(9999, 1100) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "multistep", "milestones": [0]}, "got 0, expected a whole number of steps"),
        ({"name": "multistep", "milestones": [1.5]}, "got 1.5, expected"),
        ({"name": "multistep", "milestones": []}, "at least 1 item"),
        ({"name": "multistep", "gamma": 2.0}, "less than or equal to 1"),
        ({"name": "exponential", "every": -5}, "got -5, expected"),
        ({"name": "cosine", "floor": 0}, "greater than 0"),
        ({"name": "constant", "warmup": -1}, "greater than or equal to 0"),
        ({"name": "constant", "gamma": 0.1}, "Extra inputs"),
        ({"name": "linear"}, "linear"),
    ],
)
def test_bad_options_are_refused_beside_their_field(config, message):
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(config)


def optimizer_of(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates], lr=0.0)


def test_learning_rate_multiplies_each_groups_own_rate():
    optimizer = optimizer_of(0.1, 0.4)
    rate = LearningRate(optimizer, build(MultistepConfig(milestones=[10], gamma=0.5)), 100)
    assert rate.set(0) == 1 and rate.set(10) == 0.5
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.2]
    rate.set(3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.4]


def test_learning_rate_survives_a_restored_optimizer():
    schedule = build(MultistepConfig(milestones=[10], gamma=0.5))
    first = optimizer_of(0.1)
    LearningRate(first, schedule, 100).set(20)
    for state_comes_first in (True, False):
        second = optimizer_of(0.1)
        if state_comes_first:
            second.load_state_dict(first.state_dict())
        rate = LearningRate(second, schedule, 100)
        if not state_comes_first:
            second.load_state_dict(first.state_dict())
        rate.set(21)
        assert second.param_groups[0]["lr"] == 0.05
        rate.set(0)
        assert second.param_groups[0]["lr"] == 0.1


def halves(step, total_steps, base=0.5):
    return base ** (step / total_steps)


def answers(step, total_steps, answer):
    return answer


@pytest.mark.parametrize("answer", [None, "much", float("nan"), float("inf"), -0.1])
def test_a_users_schedule_that_gives_no_factor_is_refused_at_the_step(answer):
    schedule = build(Custom(name=f"{__name__}:answers", answer=answer))
    with pytest.raises(ValueError, match=rf"schedule '.*:answers' gave {answer!r} at step 3, expected a finite number"):
        schedule(3, 10)


def test_a_users_schedule_is_called_with_step_and_total():
    config = ADAPTER.validate_python({"name": f"{__name__}:halves", "base": 0.25})
    assert build(config)(50, 100) == 0.5
    with pytest.raises(ValueError, match="bass"):
        build(Custom(name=f"{__name__}:halves", bass=1))
    with pytest.raises(ValueError, match="expected a function"):
        build(Custom(name=f"{__name__}:ADAPTER"))
