"""The script for sbatch: read by bash, and run whole with stand-ins for SLURM's commands that start real processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import environment, jobs, made, processes, until

import configs
from launch.cli import main
from launch.slurm import seconds
from trainers.schema import Run

pytestmark = pytest.mark.timeout(90)

SBATCH = """\
#!/bin/bash
echo "Submitted batch job 7"
echo "$@" > submitted
"""
SCONTROL = """\
#!/bin/bash
case $1 in
    show) tr , '\\n' <<< "$3" ;;
    requeue) echo "$2" >> requeued ;;
esac
"""
# Like srun: the command once a node, each with its log; a signal to it goes to those processes and to no other.
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --output=* ]] && log=${1#--output=}
    shift
done
nodes=0
for _ in ${SLURM_JOB_NODELIST//,/ }; do
    node_log=${log//%j/$SLURM_JOB_ID}
    SLURM_NODEID=$nodes "$@" >> "${node_log//%n/$nodes}" 2>&1 &
    tasks+=($!)
    nodes=$((nodes + 1))
done
trap 'kill -USR2 "${tasks[@]}"' USR2
code=0
for task in "${tasks[@]}"; do
    while wait "$task"; ended=$?; kill -0 "$task" 2> /dev/null; do :; done
    [[ $ended -gt $code ]] && code=$ended
done
exit "$code"
"""


@pytest.fixture
def slurm(job, monkeypatch):
    """SLURM's commands, first in PATH, in the folder of a small job."""
    folder = job / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("srun", SRUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return job


def directives(script: Path) -> list[str]:
    """The options that sbatch finds in a script."""
    return re.findall(r"^#SBATCH (.*)$", script.read_text(), re.MULTILINE)


@pytest.mark.timeout(240)
def test_a_job_saves_before_its_time_is_up_is_queued_again_and_goes_on_to_the_end(slurm, capsys):
    def batch_job() -> subprocess.Popen[str]:
        started = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "localhost"}
        return subprocess.Popen(
            ["bash", "runs/own/slurm.sh"], env=environment() | started, stdout=subprocess.PIPE, text=True
        )

    (slurm / "slowly").touch()
    assert main(["launch", "slurm", "own.yaml", "train.steps=400", "--nodes", "1", "--workers-per-node", "2"]) == 0
    assert capsys.readouterr().out == "runs/own/slurm.sh\n"
    checkpoints = slurm / "runs" / "own" / "checkpoints"
    with batch_job() as first:
        try:
            until(lambda: made(0) > 10 and made(1) > 10, timeout_s=80)
            first.send_signal(signal.SIGUSR2)
            out, _ = first.communicate(timeout=30)
        finally:
            first.kill()
    log = (slurm / "runs" / "own" / "logs" / "slurm-4711-node-0.log").read_text()
    assert (first.returncode, out) == (0, "job 4711: time is up; back to the queue\n"), log
    assert (slurm / "requeued").read_text() == "4711\n"
    assert all(len([*(checkpoints / f"worker-{rank}").iterdir()]) == 1 for rank in range(2))
    assert jobs() == []
    until(lambda: not processes(slurm), timeout_s=10)

    (slurm / "slowly").unlink()
    with batch_job() as second:
        try:
            out, _ = second.communicate(timeout=100)
        finally:
            second.kill()
    log = (slurm / "runs" / "own" / "logs" / "slurm-4711-node-0.log").read_text()
    assert (second.returncode, out) == (0, "job 4711: the run is finished\n"), log
    assert len(re.findall(r"worker \d: goes on from step \d+", log)) == 2
    assert "consensus model on held-out data" in log
    assert (slurm / "requeued").read_text() == "4711\n"
    assert jobs() == []


def test_a_job_that_fails_by_itself_is_not_queued_again(slurm):
    assert main(["launch", "slurm", "small.yaml", "--nodes", "1", "--workers-per-node", "2", "--setup", "true"]) == 0
    (slurm / "bin" / "python").write_text("#!/bin/bash\nexit 3\n")
    (slurm / "bin" / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", "runs/small/slurm.sh"],
        env=environment() | {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost"},
        timeout=20,
        check=False,
    )
    assert done.returncode == 3
    assert not (slurm / "requeued").exists()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("{method: gosgd}", ["--node-rank=$SLURM_NODEID", "--no-kill", "gosgd[cluster]", "UCX_NET_DEVICES"]),
        ("{method: persyn, tau: 5}", ["--rdzv-backend=c10d", "--kill-on-bad-exit=1", "NCCL_SOCKET_IFNAME"]),
    ],
)
def test_the_script_is_shell_that_bash_can_read_and_asks_for_what_was_asked_for(slurm, method, expected):
    (slurm / "environment.sh").write_text("module load python\n")
    options = ["--time", "1-12", "--partition", "gpu", "--account", "lab", "--mem", "64G", "--port", "31000"]
    options += ["--signal-before", "5m", "--setup", "environment.sh", "--setup", "conda activate 'my env'"]
    where = f"run.dir={slurm}/my run"
    arguments = ["small.yaml", f"exchange={method}", where, "--nodes", "4", "--gpus-per-node", "8", *options]
    assert main(["launch", "slurm", *arguments]) == 0
    script = slurm / "my run" / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    beside = Path(sys.executable).with_name("shellcheck")
    if shellcheck := shutil.which("shellcheck") or shutil.which(beside):
        assert subprocess.run([shellcheck, "--severity=warning", script], check=False).returncode == 0
    found = directives(script)
    assert {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=16", "--time=1-12"} < {*found}
    assert {"--signal=B:USR2@300", "--requeue", "--mem=64G", "--partition=gpu", "--account=lab"} < {*found}
    assert f"--output='{slurm}/my run/logs/slurm-%j.log'" in found
    text = script.read_text()
    assert all(
        part in text for part in [*expected, f"source {slurm}/environment.sh\nconda activate 'my env'\n", "port=31000"]
    )
    loaded = configs.load(slurm / "my run" / "launch.yaml", [], Run).config
    assert (loaded.run.workers, loaded.run.dir) == (32, f"{slurm}/my run")
    assert (slurm / "my run" / "secret").stat().st_mode & 0o777 == 0o600
    secret = (slurm / "my run" / "secret").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}\n", secret)
    assert secret.strip() not in text
    assert main(["launch", "slurm", *arguments]) == 0  # once more, for the same run
    assert (slurm / "my run" / "secret").read_text() == secret


def test_a_job_is_submitted_only_when_asked_for(slurm, capsys, monkeypatch):
    arguments = ["launch", "slurm", "small.yaml", "--nodes", "1", "--workers-per-node", "2"]
    assert main(arguments) == 0
    assert not (slurm / "submitted").exists()
    assert main([*arguments, "--submit"]) == 0
    assert capsys.readouterr().out.endswith("runs/small/slurm.sh\nSubmitted batch job 7\n")
    assert (slurm / "submitted").read_text() == f"{slurm}/runs/small/slurm.sh\n"
    (slurm / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2\nexit 1\n")
    assert main([*arguments, "--submit"]) == 1
    assert capsys.readouterr().err == "gosgd: sbatch ended with 1: invalid partition\n"
    monkeypatch.setenv("PATH", str(slurm))
    assert main([*arguments, "run.dir=other", "--submit"]) == 2
    assert "--submit: got no sbatch in PATH, expected a machine of the cluster" in capsys.readouterr().err
    assert not (slurm / "other").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "0"], "got 0 nodes, expected 1 or more"),
        (["--nodes", "40"], r"got 80 workers, expected 1 to run\.max_workers = 64"),
        (
            ["exchange={method: downpour, server: sharded}", "--nodes", "2"],
            r"override 'exchange=.*': exchange: got server=sharded with workers on several hosts, expected server=",
        ),
        (["exchange.roh=0.1"], r"exchange\.roh: got an unknown key"),
        (["exchange={method: easgd, beta: 3}"], r"override 'exchange=\{.*\}': exchange: "),
        (["--time", "soon"], "--time: got 'soon', expected minutes"),
        (["--time", "2"], r"--time: got 2, expected more than --signal-before \(120 s\)"),
        (["--signal-before", "10"], r"--signal-before: got 10, expected at least run\.grace_s = 30"),
        (["--signal-before", "soon"], r"--signal-before: got 'soon', expected a time such as 30s, 10m or 1\.5h"),
        (["--partition", "a b"], "--partition: got 'a b', expected one word"),
        (["--mem", ""], "--mem: got '', expected one word"),
        (["--port", "80"], "--port: got 80, expected 1024 to 65535"),
        (["--cpus-per-task", "0"], "--cpus-per-task: got 0, expected 1 or more"),
        (["--setup", "no/such.sh"], r"--setup: got no/such\.sh, which does not exist"),
        (["--setup", "activate it's"], "--setup: got .*, expected a line of shell: no closing quotation"),
        (["run.dir=small.yaml"], r"run\.dir: got small\.yaml, which is a file"),
        (["--gpus-per-node", "2"], "not allowed with argument --workers-per-node"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(slurm, capsys, options, said):
    before = sorted(slurm.rglob("*"))
    nodes = [] if "--nodes" in options else ["--nodes", "1"]
    try:
        code = main(["launch", "slurm", "small.yaml", "--workers-per-node", "2", *nodes, *options])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert re.search(said, err), err
    assert err.count("\n") == 1
    assert sorted(slurm.rglob("*")) == before


def test_times_are_read_as_sbatch_reads_them():
    given = {"90": 5400, "90:30": 5430, "1:00:30": 3630, "2-3": 183600, "2-3:04": 183840, "2-3:04:05": 183845}
    assert {text: seconds(text) for text in given} == given
    assert seconds("1:2:3:4") is seconds("1h") is None
