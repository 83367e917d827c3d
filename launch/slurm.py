"""`gosgd launch slurm`: a script for sbatch. Imports launch.torchrun.

How the signal before the time is up reaches the workers: SLURM's `--signal=B:USR2@S` tells the batch script alone,
which has to know in order to queue the job again. It hands the signal to srun, and srun to the task of each node; with
proctrack/cgroup a step's signals reach only such direct tasks, and none of their children. So the task is a shell that
passes it on to the workers. torchrun could do that itself (`--signals-to-handle`), but it then kills whoever is not
done after 30 s (before torch 2.12 always) and ends with an error; told past it, the workers end well and so does it.
"""

from __future__ import annotations

import argparse
import math
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from configs.files import write_atomically
from launch.errors import DONE, RunFailedError
from launch.torchrun import ClusterJob, check_job, prepare, settled

SCRIPT, CONFIGURATION, SECRET = "slurm.sh", "launch.yaml", "secret"
_TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)")
_WORD = re.compile(r"[\w.,:+@=/*-]+")
_WORDS = ("time", "partition", "account", "mem")


def run(given: argparse.Namespace) -> int:
    """Write the script, print its path, and submit it if asked to.

    Raises:
        ValueError: a mistake in the configuration or in an option, or no sbatch to submit to.
        RunFailedError: sbatch refused the script.
    """
    job = check_job(given.config, given.overrides, given.nodes, given.workers_per_node, given.gpus_per_node)
    _check(given, job)
    directory = prepare(job)
    path = directory.path.absolute()
    for name, text in (
        (CONFIGURATION, settled(job, str(path))),
        (SCRIPT, script(job, given, path)),
        *([] if (path / SECRET).exists() else [(SECRET, secrets.token_hex(32) + "\n")]),
    ):
        write_atomically(path / name, lambda draft, text=text: draft.write_text(text))  # type: ignore[misc]
    (path / SCRIPT).chmod(0o700)
    print(directory.path / SCRIPT)
    if given.submit:
        submitted = subprocess.run(
            ["sbatch", str(path / SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if submitted.returncode:
            raise RunFailedError(f"sbatch ended with {submitted.returncode}: {submitted.stdout.strip()}")
        print(submitted.stdout, end="")
    return DONE


def seconds(time: str) -> int | None:
    """A time limit as sbatch spells it, `minutes[:seconds]`, `h:m:s` or `days-hours[:m[:s]]`; None if it is no such."""
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    days, hours, minutes, rest, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is not None:
        return 86400 * days + 3600 * hours + 60 * minutes + rest
    return 60 * first + second if match[7] is None else 3600 * first + 60 * second + third


def _check(given: argparse.Namespace, job: ClusterJob) -> None:
    for option in _WORDS:
        value = getattr(given, option)
        if value is not None and not _WORD.fullmatch(value):
            raise ValueError(f"--{option}: got {value!r}, expected one word as sbatch takes it")
    for option in ("cpus_per_task", "signal_before"):
        value = getattr(given, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')}: got {value}, expected 1 or more")
    if given.port is not None and not 1024 <= given.port < 65536:
        raise ValueError(f"--port: got {given.port}, expected 1024 to 65535")
    if given.signal_before < (grace := job.run.run.grace_s):
        raise ValueError(
            f"--signal-before: got {given.signal_before}, expected at least run.grace_s = {grace:g}, which the workers"
            " may take to save"
        )
    if given.time is not None:
        limit = seconds(given.time)
        if limit is None:
            raise ValueError(f"--time: got {given.time!r}, expected minutes, hours:minutes:seconds or days-hours")
        if limit <= given.signal_before:
            raise ValueError(f"--time: got {given.time}, expected more than --signal-before ({given.signal_before} s)")
    for line in given.setup:
        if "/" in line and not re.search(r"\s", line) and not Path(line).exists():
            raise ValueError(f"--setup: got {line}, which does not exist; expected a file or a line of shell")
        try:
            shlex.split(line, comments=True)
        except ValueError as error:
            raise ValueError(f"--setup: got {line!r}, expected a line of shell: {str(error).lower()}") from None
    if given.submit and shutil.which("sbatch") is None:
        raise ValueError("--submit: got no sbatch in PATH, expected a machine of the cluster; or copy the script there")


def script(job: ClusterJob, given: argparse.Namespace, directory: Path) -> str:
    """The text for sbatch.

    Args:
        job: what to start.
        given: the options of the command.
        directory: of the run, on every node.
    """
    python = "python" if given.setup else shlex.quote(sys.executable)
    torchrun = " \\\n        ".join(
        [
            f"exec {python} -m torch.distributed.run",
            *(
                _quoted(argument)
                for argument in job.arguments("gosgd-$SLURM_JOB_ID", "$head", "$port", "$SLURM_NODEID")
            ),
            f'-m launch.train "$run/{CONFIGURATION}" --resume auto) &',
        ]
    )
    cpus = given.cpus_per_task or job.cpus
    failing, step = "", ["--export=ALL", f"--cpus-per-task={cpus}"]
    if job.nodes > 1:
        failing = _FAILING_ONE if job.gossip_between_nodes else _FAILING_ALL
        step += ["--kill-on-bad-exit=0", "--no-kill"] if job.gossip_between_nodes else ["--kill-on-bad-exit=1"]
    return _TEXT.format(
        what=job.describe(),
        path=shlex.quote(str(directory / SCRIPT)),
        before=given.signal_before,
        grace=math.ceil(job.run.run.grace_s),
        directives="\n".join(f"#SBATCH {line}" for line in _directives(job, given, directory, cpus)),
        run=shlex.quote(str(directory)),
        setup="".join(f"{_setup(line)}\n" for line in given.setup),
        threads=job.run.train.threads,
        secret=SECRET,
        network=_network(job),
        port=given.port or "$((20000 + SLURM_JOB_ID % 10000))",
        torchrun=torchrun,
        failing=failing,
        step=" ".join(step),
        configuration=CONFIGURATION,
    )


def _directives(job: ClusterJob, given: argparse.Namespace, directory: Path, cpus: int) -> list[str]:
    """The options of sbatch, which reads them before any shell does."""
    log = str(directory / "logs").replace("%", "%%") + "/slurm-%j.log"
    lines = [f"--job-name={job.run.name}", f"--nodes={job.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"]
    lines += [f"--gpus-per-node={job.each}"] if job.gpus else []
    lines += [f"--{option}={value}" for option in _WORDS if (value := getattr(given, option)) is not None]
    lines += [f"--signal=B:USR2@{given.signal_before}", "--requeue"]
    lines += ["--no-kill"] if job.gossip_between_nodes else []
    lines += ["--open-mode=append", f"--output={shlex.quote(log)}", f"--chdir={shlex.quote(str(Path.cwd()))}"]
    return lines


def _setup(line: str) -> str:
    return f"source {shlex.quote(str(Path(line).absolute()))}" if Path(line).is_file() else line


def _quoted(argument: str) -> str:
    return f'"{argument}"' if "$" in argument else argument


def _network(job: ClusterJob) -> str:
    """How to choose a network, for whatever the method's workers talk through."""
    if job.gossip_between_nodes:
        return _GOSSIP + _NETWORK + "# export UCX_NET_DEVICES=mlx5_0:1\n\n"
    if job.nodes > 1 and job.method.collective:
        name = "NCCL" if job.gpus else "GLOO"
        return _NETWORK + f"# export {name}_SOCKET_IFNAME=ib0\n\n"
    return ""


_GOSSIP = "# Gossip between nodes goes through UCX; this Python needs: pip install 'gosgd[cluster]'\n"
_NETWORK = "# Where nodes have several networks, name the fast one (`ip -brief address` lists them):\n"
_FAILING_ALL = "# A node that fails ends the step: its workers can only go on together.\n"
_FAILING_ONE = "# A node that fails takes its own workers along and no others.\n"

_TEXT = """\
#!/bin/bash
# {what}. Start it with: sbatch {path}
#
# On every node one task starts torchrun, and torchrun the workers. {before} s before the time is up SLURM signals this
# script, which hands the signal on: the workers save and leave, and the job goes back to the queue. It goes on from its
# checkpoints until the run is finished. A job that fails by itself is not queued again.

{directives}

set -u
run={run}

# Python with gosgd in it.
{setup}export PYTHONSAFEPATH=1  # a folder of yours called `trainers` shall not hide ours
export OMP_NUM_THREADS={threads}

# What the nodes tell each other at the start is signed with a secret that only its owner can read.
GOSGD_SECRET=$(< "$run/{secret}")
export GOSGD_SECRET

{network}# The nodes find each other at the first one.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port={port}
export run head port

# A signal cuts `wait` short: wait until the process has really ended.
wait_for() {{
    local code
    while wait "$1"; code=$?; kill -0 "$1" 2> /dev/null; do :; done
    return "$code"
}}

# shellcheck disable=SC2329  # called by the shells that srun starts
# What runs on each node. The signal goes to the workers, torchrun's children, which save and end well; torchrun ends
# with the last of them. It is kept from the signal itself, which would end it at once.
node() {{
    (trap '' USR2; {torchrun}
    torchrun=$!
    trap 'pkill -USR2 -P "$torchrun"' USR2 TERM
    wait_for "$torchrun"
}}
export -f wait_for node

{failing}srun {step} \\
    --output="$run/logs/slurm-%j-node-%n.log" --open-mode=append bash -c node &
step=$!

# srun passes the signal on to the tasks; again and again, because workers that are just starting do not hear it yet.
# Where SLURM ends the job (scancel, preemption) it tells the tasks itself: see them off.
time_is_up=no
trap 'time_is_up=yes; while kill -USR2 "$step"; do sleep 5; done > /dev/null 2>&1 &' USR2
trap : TERM
wait_for "$step"
code=$?

summary=$run/final/summary.json
if [[ $summary -nt $run/{configuration} ]] && grep -q '"interrupted": false' "$summary"; then
    echo "job $SLURM_JOB_ID: the run is finished"
    exit 0
fi
if [[ $time_is_up = yes ]]; then
    echo "job $SLURM_JOB_ID: time is up; back to the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
