"""What processes are like that are forked of the nursery, beside those that a fresh interpreter starts."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from launching import FRESHLY, jobs, made, pid_of, processes, started, stop_the_nursery, until
from support.reading import lines
from support.remote import process_state

from launch import nursery as nursery_module
from launch.nursery import METHOD, Nursery
from launch.start import Start

CRAFT = '''\
"""Says what it is like here, and ends as it is told."""

import atexit
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path


def main(arguments):
    how, *rest = arguments
    if how == "tidy":
        atexit.register(Path("ended").touch)
        global temporary
        temporary = tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="temporary-")
        return 0
    if how == "draw":
        import numpy as np
        import torch

        Path(rest[0]).write_text(json.dumps([np.random.rand(), torch.get_num_threads()]))
        return 0
    if how == "count":
        with Path("count").open("a") as file:
            file.write(f"{os.getpid()}\\n")
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn")
    print(json.dumps({
        "method": method, "taken": "TAKEN" in os.environ,
        "parent": os.getppid(), "session": os.getsid(0), "folder": os.getcwd(), "mark": os.environ.get("MARK"),
        "read": sys.stdin.read() if not sys.stdin.closed else "", "argv": sys.argv[1:],
        "open": [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                 and os.path.exists(f"/proc/self/fd/{fd}")],
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "hangup": signal.getsignal(signal.SIGHUP) is signal.SIG_DFL,
    }))
    print("seen", file=sys.stderr)
    if how == "wait":
        time.sleep(60)
    if how == "raise":
        raise RuntimeError("of its own")
    return {"return": 7, "done": 0}.get(how, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''

GATE = """
import time
from pathlib import Path

while not Path(__file__).with_name("open").exists():
    time.sleep(0.01)
"""


@pytest.fixture(params=["fork", "spawn"])
def nursery(request, tmp_path, monkeypatch):
    monkeypatch.setenv(METHOD, request.param)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "craft.py").write_text(CRAFT)
    monkeypatch.setenv("TAKEN", "back")
    with (tmp_path / "the-launchers").open("w"), Nursery() as nursery:
        monkeypatch.delenv("TAKEN")
        yield nursery
    assert not [pid for pid in processes(tmp_path) if process_state(pid) != "Z"]


def start(folder, how: str, *rest: str, **environment: str) -> Start:
    return Start(f"craft-{how}", "craft", [how, *rest], {"MARK": "made"} | environment, folder / "out", folder / "err")


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_process_is_a_child_in_a_session_of_its_own_with_its_own_files(nursery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    until(lambda: nursery.ready)
    pid = nursery.start(start(tmp_path, "done", "word"))
    assert code_of(pid) == 0
    found = json.loads((tmp_path / "out").read_text())
    assert not [path for path in found.pop("open") if path.startswith(str(tmp_path))]
    assert found == {
        "parent": os.getpid(),
        "session": pid,
        "folder": str(tmp_path),
        "mark": "made",
        "read": "",
        "argv": ["done", "word"],
        "interrupt": True,
        "hangup": True,
        "method": None,
        "taken": False,
    }
    assert (tmp_path / "err").read_text() == "seen\n"


def test_its_exit_code_is_what_it_returns_what_it_fails_with_or_what_kills_it(nursery, tmp_path):
    until(lambda: nursery.ready)
    assert code_of(nursery.start(start(tmp_path, "return"))) == 7
    assert code_of(nursery.start(start(tmp_path, "raise"))) == 1
    assert (tmp_path / "err").read_text().endswith("RuntimeError: of its own\n")
    pid = nursery.start(start(tmp_path, "wait"))
    until(lambda: (tmp_path / "err").read_text() == "seen\n")
    os.kill(pid, signal.SIGKILL)
    assert code_of(pid) == -signal.SIGKILL


def test_forking_takes_no_interpreter_and_the_next_is_as_the_first(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(nursery_module, "_IMPORTS", (*nursery_module._IMPORTS, "gate"))
    (tmp_path / "craft.py").write_text(CRAFT)
    (tmp_path / "gate.py").write_text(GATE)
    with Nursery() as nursery:
        assert not nursery.ready, "it imports"
        (tmp_path / "open").touch()
        until(lambda: nursery.ready)
        for _ in range(5):
            assert code_of(nursery.start(start(tmp_path, "return"))) == 7
        assert nursery.pid is not None, "they were forked"
        (tmp_path / "craft.py").write_text(CRAFT.replace('"return": 7', '"return": 8'))
        (tmp_path / "__pycache__").exists() and [path.unlink() for path in (tmp_path / "__pycache__").iterdir()]
        assert code_of(nursery.start(start(tmp_path, "return"))) == 8, "the user's modules are read anew"


def test_one_may_be_started_before_the_nursery_is_ready(nursery, tmp_path):
    assert code_of(nursery.start(start(tmp_path, "return"))) == 7


def test_what_its_modules_leave_to_the_end_is_done(nursery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    until(lambda: nursery.ready)
    assert code_of(nursery.start(start(tmp_path, "tidy"))) == 0
    assert (tmp_path / "ended").exists()
    assert not list(tmp_path.glob("temporary-*"))


def test_processes_draw_different_numbers_with_as_many_threads_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "craft.py").write_text(CRAFT)
    with Nursery() as nursery:
        until(lambda: nursery.ready)
        for name in ("one", "other"):
            assert code_of(nursery.start(start(tmp_path, "draw", str(tmp_path / name), OMP_NUM_THREADS="3"))) == 0
        assert nursery.pid is not None, "they were forked"
    (one, threads), (other, _) = (json.loads((tmp_path / name).read_text()) for name in ("one", "other"))
    assert one != other
    assert threads == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_process_is_started_when_the_nursery_is_killed_or_stopped_on_the_way(tmp_path, monkeypatch, number):
    launcher, wait = os.getpid(), os.waitpid

    def struck(pid, options):
        if os.getpid() != launcher:  # the nursery, which has forked a process and has yet to see to it
            os.kill(os.getpid(), number)
        return wait(pid, options)

    monkeypatch.setattr("os.waitpid", struck)
    assert counted(tmp_path, monkeypatch) == 1


def test_one_process_is_started_when_the_launcher_has_given_up_another(tmp_path, monkeypatch):
    live = nursery_module._live

    def late(*arguments):
        time.sleep(1.0)
        live(*arguments)

    monkeypatch.setattr("launch.nursery._live", late)
    monkeypatch.setattr("launch.nursery._ANSWER_S", 0.5)
    assert counted(tmp_path, monkeypatch, 1.5) == 1


def counted(folder, monkeypatch, patience_s: float = 0.0) -> int:
    """How many processes begin when one is started."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    (folder / "craft.py").write_text(CRAFT)
    with Nursery() as nursery:
        until(lambda: nursery.ready)
        assert code_of(nursery.start(start(folder, "count"))) == 0
        time.sleep(patience_s)
        return len((folder / "count").read_text().splitlines())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_nursery_that_is_killed_or_hangs_is_done_without(tmp_path, monkeypatch, number):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("launch.nursery._ANSWER_S", 0.5)
    (tmp_path / "craft.py").write_text(CRAFT)
    with Nursery() as nursery:
        until(lambda: nursery.ready)
        assert nursery.pid is not None
        os.kill(nursery.pid, number)
        assert nursery.ready
        assert code_of(nursery.start(start(tmp_path, "return"))) == 7
        assert nursery.pid is None


def test_nobody_in_a_job_misses_a_nursery_that_is_killed(job):
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", "train.steps=3000", f"run.dir={job}/run") as process:
        until(lambda: made(0) > 20 and made(1) > 20)
        names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes(job)}
        assert sorted(name for pid, name in names.items() if pid != process.pid) == [
            "gosgd-nursery",
            "gosgd-worker-0",
            "gosgd-worker-1",
        ]
        (nursery,) = [pid for pid, name in names.items() if name == "gosgd-nursery"]
        one, other = pid_of(job, 0), pid_of(job, 1)
        os.kill(nursery, signal.SIGKILL)
        before = made(0)
        until(lambda: made(0) > before + 20)
        assert (pid_of(job, 0), pid_of(job, 1)) == (one, other)
        os.kill(other, signal.SIGKILL)
        until(lambda: made(1, generation=1) > 0)
        assert Path(f"/proc/{pid_of(job, 1)}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"launch.train"]
        assert pid_of(job, 0) == one
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert [line["event"] for line in lines(job / "run" / "events.jsonl")] == ["failure", "restart"]


def test_a_launcher_that_is_killed_while_the_nursery_imports_leaves_nothing(job):
    with started(job, "train", "own.yaml", f"run.dir={job}/run", under=FRESHLY) as process:
        stop_the_nursery(job)
        time.sleep(1.0)  # the configuration is read meanwhile
        process.kill()
        until(lambda: not processes(job), timeout_s=20)
    assert not jobs()


def test_a_nursery_ends_with_a_launcher_that_is_killed(job):
    (job / "slowly").touch()
    with started(job, "train", "own.yaml", f"run.dir={job}/run") as process:
        until(lambda: made(0) > 0)
        process.kill()
        until(lambda: not processes(job), timeout_s=20)
