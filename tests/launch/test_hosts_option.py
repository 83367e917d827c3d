"""`gosgd train --hosts`: the lines for torchrun, and the one of this host run."""

import re
import shlex
import socket
import subprocess
import sys

import pytest
from launching import environment
from torch.distributed.run import get_args_parser

from launch.cli import main
from launch.hosts import parse, this_host


def lines(capsys, *arguments):
    """What is printed for each host: {host: command line}."""
    assert main(["train", *arguments]) == 0
    return dict(re.findall(r"^# (\S+)\n(torchrun .*)$", capsys.readouterr().out, re.MULTILINE))


def understood(line):
    """A line as torchrun itself reads it."""
    program, *arguments = shlex.split(line)
    assert program == "torchrun"
    return get_args_parser().parse_args(arguments)


def test_each_host_has_its_line_with_its_own_rank_and_the_first_hosts_address(job, capsys):
    found = lines(capsys, "small.yaml", "train.steps=5", "--hosts", "a,b.lab,10.0.0.3:31000", "--workers", "4")
    assert [*found] == ["a", "b.lab", "10.0.0.3"]
    for rank, line in enumerate(found.values()):
        given = understood(line)
        assert (given.nnodes, given.nproc_per_node, given.node_rank) == ("3", "4", rank)
        assert (given.rdzv_backend, given.master_addr, given.master_port) == ("static", "a", 31000)
        assert (given.module, given.training_script) == (True, "launch.train")
        assert given.training_script_args == ["small.yaml", "train.steps=5"]


def test_workers_of_a_collective_method_meet_by_the_rendezvous_that_restarts_them_all(job, capsys):
    found = lines(
        capsys, "small.yaml", "exchange={method: persyn, tau: 5}", "--hosts", "[fe80::1],b", "--resume", "auto"
    )
    for line in found.values():
        given = understood(line)
        assert (given.rdzv_backend, given.rdzv_endpoint, given.rdzv_id) == ("c10d", "[fe80::1]:29500", "small")
        assert given.nproc_per_node == "2"
        assert given.training_script_args[-2:] == ["--resume", "auto"]


def test_the_line_of_this_host_is_run_in_place_of_the_command(job):
    interpreter = job / "interpreter"
    interpreter.write_text('#!/bin/sh\necho $$ "$OMP_NUM_THREADS" "$PYTHONSAFEPATH" "$@"\nexit 3\n')
    interpreter.chmod(0o755)
    program = "import sys; from launch.cli import main; sys.executable = sys.argv[1]; sys.exit(main(sys.argv[2:]))"
    options = ["train.threads=3", "--workers", "2", "--hosts", "198.51.100.1,127.0.0.1:31000", "--run"]
    with subprocess.Popen(
        [sys.executable, "-c", program, interpreter, "train", "small.yaml", *options],
        env={name: value for name, value in environment().items() if name != "OMP_NUM_THREADS"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    line = "-m torch.distributed.run --nnodes=2 --nproc-per-node=2 --max-restarts=3 --rdzv-id=small"
    line += " --rdzv-conf=timeout=600 --node-rank=1"
    where = "--master-addr=198.51.100.1 --master-port=31000 -m launch.train small.yaml train.threads=3"
    assert said == f"{process.pid} 3 1 {line} {where}\n"


def test_a_host_knows_itself_by_name_and_by_address():
    assert this_host(["no-such-host.invalid", socket.gethostname()]) == 1
    assert this_host(["127.0.0.1", "198.51.100.1"]) == 0
    with pytest.raises(ValueError, match=r"as none of --hosts 198\.51\.100\.1, expected exactly one"):
        this_host(["198.51.100.1"])
    with pytest.raises(ValueError, match=r"as 127\.0\.0\.1 and localhost among"):
        this_host(["127.0.0.1", "localhost"])


def test_a_port_that_is_taken_is_refused_on_the_first_host(job, capsys):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        hosts = f"127.0.0.1,198.51.100.1:{port}"
        assert main(["train", "small.yaml", "--hosts", hosts, "--run"]) == 2
    said = f"gosgd: --hosts: got port {port}, which cannot be listened on here (Address already in use); name another"
    assert capsys.readouterr().err.startswith(said)


def test_hosts_are_read_with_and_without_a_port():
    assert parse("a") == (["a"], 29500)
    assert parse("a:1, b:1") == (["a", "b"], 1)
    assert parse("[::1]:7,b") == (["::1", "b"], 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hosts", "a,,b"], "--hosts: got '', expected host, host:port or"),
        (["--hosts", "a b"], "--hosts: got 'a b', expected host"),
        (["--hosts", "a,b,a"], "--hosts: got a twice, expected each host once"),
        (["--hosts", "a:1,b:2"], "--hosts: got ports 1, 2, expected one"),
        (["--hosts", "a:70000"], "--hosts: got port 70000, expected 1 to 65535"),
        (["--hosts", "a,b", "--workers", "0"], "got 0 workers on a node, expected 1 or more"),
        (["--hosts", "a,b", "--workers", "40"], r"got 80 workers, expected 1 to run\.max_workers = 64"),
        (["--hosts", "a,b", "exchange.roh=1"], r"exchange\.roh: got an unknown key"),
        (["--hosts", "a,b", "--detach"], "got --hosts with --join, --detach"),
        (["--hosts", "198.51.100.1,198.51.100.2", "--run"], "as none of --hosts"),
        (["--run"], "got --run without --hosts"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(job, capsys, arguments, said):
    assert main(["train", "small.yaml", *arguments]) == 2
    captured = capsys.readouterr()
    assert re.search(said, captured.err), captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
