"""Eight workers under thirty kills and stops: the job ends as if nothing had been, and every share is accounted for."""

import json
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import ROOT, jobs, made, processes, started, until
from support.commands import main
from torch import nn

import gossip
from configs import load
from gossip.directory import JobDirectory
from gossip.job import Job
from launch.chaos import changed
from launch.chaos_figures import Told, figures
from launch.disturber import Disturber, Look, Recovery
from launch.faults import Fault, Plague
from launch.nursery import Nursery
from launch.plan import make_plan
from launch.supervisor import Supervisor
from trainers.schema import Run

pytestmark = pytest.mark.timeout(300)

SLEEPY = """\
name: sleepy
data: {name: digits, batch_size: 16}
model: {name: mlp, hidden: [16]}
optimizer: {name: 'benchmarks.sleeping:SleepingSGD', lr: 0.1, sleep_s: 0.02}
exchange: {method: gosgd, rho: 0.5}
train: {steps: 60}
run: {workers: 8, log_every: 10, eval_every: 50, tensorboard: false}
"""


def test_thirty_faults_on_eight_workers(tmp_path, monkeypatch, capsys):
    """From the first seconds, while workers still come up, to the end, while they leave; successors are hit as well."""
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "sleepy.yaml").write_text(SLEEPY)
    seconds = 32
    plague = Plague(kill_every=seconds / 18, stop_every=seconds / 12, stop_for=2.0, again=0.2, seed=5)
    schedule = plague.schedule(8, seconds)
    assert len(schedule) == 30
    assert {fault.kind for fault in schedule} == {"kill", "kill_again", "stop"}
    assert 0 in {victim for fault in schedule if fault.kind != "stop" for victim in fault.victims}
    plan = make_plan(changed(load(str(tmp_path / "sleepy.yaml"), [], Run), 1700, tmp_path / "run"), "never")
    disturber = Disturber(schedule, prompt=True, last=True)
    with Nursery() as nursery:
        assert Supervisor(plan, nursery, disturber).run() == 0
    capsys.readouterr()
    struck = [event for event in disturber.events if event["event"] != "continue"]
    assert len(struck) >= 30
    told = Told.of(plan.directory, disturber, 8)
    assert len(told.ledgers) > 10
    assert all(told.ledgers)
    assert told.summary["mass_total"] == 1.0
    assert told.summary["steps"] == 1700
    assert told.summary["accuracy"] > 0.9
    assert any(one.again for one in told.recoveries), "somebody was killed before it had trained again"
    dead_at_the_end = [one for one in told.recoveries if one.training is None and not one.again]
    assert all(one.killed > disturber.began + seconds / 2 for one in dead_at_the_end), "everybody else came back"
    assert jobs() == []
    assert processes(tmp_path) == []


def test_the_command_compares_a_run_with_itself_undisturbed(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "sleepy.yaml").write_text(SLEEPY)
    faults = ["--kill-every", "2s", "--partition-every", "4s", "--partition-for", "0.5s", "--stop-every", "3s"]
    command = ["chaos", str(tmp_path / "sleepy.yaml"), "--workers", "2", "--steps", "150", "--duration", "4s"]
    assert main([*command, *faults, "--stop-for", "0.5s", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "steps kept" in said
    found = json.loads((tmp_path / "out" / "chaos.json").read_text())
    assert found["ledger_balanced"] is True
    assert found["mass_total"] == 1.0
    assert set(found["faults"]) >= {"kill", "stop", "partition", "heal", "continue"}
    assert (tmp_path / "out" / "chaos.png").stat().st_size > 10_000
    assert jobs() == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--kill-every", "5x"], "argument --kill-every: got '5x', expected a time such as 30s, 10m or 1.5h"),
        ([], "got no faults, expected at least one of --kill-every"),
        (["--kill-every", "5s", "--workers", "1"], "got 1 worker, expected at least 2"),
        (["--several-every", "5s", "--several", "2", "--workers", "2"], "--several: got 2, expected fewer than"),
        (["--several-every", "5s", "--several", "-1"], "--several: got -1, expected at least 1"),
        (["--kill-every", "5s", "--steps", "-5"], "--steps: got -5, expected at least 1"),
        (["--kill-every", "5s", "--duration", "0"], "--duration: got 0 s, expected at least 1 s"),
        (["--partition-every", "5s", "exchange={method: none}"], "--partition-every: got exchange.method none"),
    ],
)
def test_mistakes_are_named(options, expected, tmp_path, capsys):
    arguments = ["chaos", "digits", *options, "--out", str(tmp_path / "out")]
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_the_comparison_whatever_it_is_to_a_job(job, capsys):
    """After SIGTERM a job has saved and ended well; there is nothing to compare."""
    (job / "slowly").touch()
    command = ["chaos", "own.yaml", "--steps", "1500", "--kill-every", "5s", "--out", "out"]
    with started(job, *command) as process:
        until(lambda: made(0) > 5 and made(1) > 5)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (128 + signal.SIGTERM, ""), err
    assert err.splitlines()[-1].startswith("gosgd: interrupted after step ")


def stepping(directory: JobDirectory, after: int, steps: int) -> gossip.GoSGD:
    """The only worker of a job, `after` earlier steps and so many more."""
    exchange = gossip.GoSGD(nn.Linear(2, 2), job=Job(0, 1, 0, directory, supervised=True), rho=0.5)
    exchange.start(after)
    for _ in range(steps):
        exchange.step()
    return exchange


def test_workers_that_are_all_started_anew_are_followed_from_where_they_go_on():
    first, second = (JobDirectory.create(1, 1) for _ in range(2))
    try:
        with subprocess.Popen(["sleep", "60"]) as victim:
            seat = SimpleNamespace(pid=victim.pid, began=0.0)
            disturber = Disturber([Fault(0.0, "kill", (0,))])
            disturber.prepare(first)
            worker = stepping(first, 0, 5)
            disturber.turn([seat])
            assert victim.wait(5) == -signal.SIGKILL
        worker.close()
        disturber.prepare(second)
        time.sleep(0.3)  # between two looks
        seat.began = time.time()
        disturber.turn([seat])
        worker = stepping(second, 3, 1)
        time.sleep(0.3)
        disturber.turn([seat])
        worker.close()
    finally:
        first.remove()
        second.remove()
    assert [look.steps for look in disturber.looks] == [5, 5, 4], "two of five steps were lost, and one was made"
    (recovery,) = disturber.recoveries
    assert recovery.training is not None
    assert [seat for seat, _, _ in disturber.down] == [0]


@given(
    st.integers(2, 20),
    st.floats(5, 500),
    st.builds(Plague, kill_every=st.floats(1, 50), stop_every=st.floats(1, 50), several_every=st.floats(5, 90)),
)
def test_a_schedule_is_in_order_within_its_time_and_repeatable(workers, seconds, plague):
    schedule = plague.schedule(workers, seconds)
    assert schedule == plague.schedule(workers, seconds)
    assert [fault.at_s for fault in schedule] == sorted(fault.at_s for fault in schedule)
    for fault in schedule:
        assert 0 <= fault.at_s <= seconds
        assert len(set(fault.victims)) == len(fault.victims) < workers
        assert all(0 <= victim < workers for victim in fault.victims)


def told(steps, down=(), waits=(), recoveries=(), workers=2) -> Told:
    looks = [Look(100.0 + second, made, workers, second == len(steps) - 1) for second, made in enumerate(steps)]
    summary = {"mass_total": 1.0, "mass_lost": 0.0, "accuracy": 0.9, "consensus_error": 0.0}
    return Told(workers, 100.0, looks, [], list(recoveries), list(down), list(waits), [True], summary)


def test_figures_by_hand():
    """Ten seconds of two workers that make ten steps a second each; under faults one of them is away for four."""
    undisturbed = told([20 * second for second in range(11)], waits=[(0, 100.0, 101.0, 3.0)])
    steps = [0, 20, 40, 50, 60, 70, 80, 100, 120, 140, 160]
    waits = [(1, 101.0, 103.0, 9000.0), (0, 103.0, 104.0, 4.0), (1, 108.0, 109.0, 5.0)]
    recoveries = [Recovery(1, 102.0, 1, 102.1, 105.0, 105.1, 106.0), Recovery(1, 109.0, 2, again=True)]
    found = figures(undisturbed, told(steps, [(1, 102.0, 106.0)], waits, recoveries))
    assert (found["seconds"], found["steps"], found["steps_undisturbed"]) == (10.0, 160.0, 200.0)
    assert found["kept"] == pytest.approx(0.8)
    assert found["kept_without_downtime"] == pytest.approx(1.0)
    assert (found["longest_wait_ms"], found["longest_wait_undisturbed_ms"]) == (5.0, 3.0)
    assert found["recovery_s"] == {"median": 4.0, "max": 4.0}
    assert found["up_to_training_s"] == {"median": 1.0, "max": 1.0}
    assert found["not_recovered"] == 0
