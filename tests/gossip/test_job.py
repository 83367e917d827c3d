"""Which worker a process is: from torchrun's environment, a launcher's, one set by hand, or none."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ports import free_port
from support.remote import answers, ask_all, in_process_of_its_own, reaped, until
from support.workers import Worker
from torch.distributed import TCPStore

from gossip import job
from gossip.directory import PREFIX, JobDirectory, root
from gossip.hosts import Hosts, agree
from gossip.job import JOB, Job

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables given, and no others of a launcher."""

    def be(**variables: str) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", JOB, "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return be


def test_a_process_that_nobody_launched_is_the_only_worker(environment):
    environment()
    job = Job.from_environment()
    assert (job.rank, job.workers, job.local_rank, job.supervised) == (0, 1, 0, False)
    began = job.began()
    assert 0 <= time.time() - began < 5
    time.sleep(0.02)
    assert job.began() == began, "a worker that is restarted did not begin the job"
    job.directory.remove()


def test_a_launchers_directory_is_used_and_belongs_to_it(environment):
    directory = JobDirectory.create(3, 3)
    environment(RANK="2", WORLD_SIZE="3", GOSGD_JOB=str(directory.path))
    job = Job.from_environment()
    assert (job.rank, job.workers, job.local_rank, job.supervised) == (2, 3, 2, True)
    assert job.directory == directory
    directory.remove()


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"RANK": "first"}, "got RANK='first' in the environment, expected a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "got RANK=2 and WORLD_SIZE=2, expected 0 <= RANK < WORLD_SIZE"),
        ({"RANK": "-1"}, "got RANK=-1"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "without MASTER_ADDR and MASTER_PORT.*torchrun --nproc-per-node=N"),
        ({JOB: "/nowhere/job"}, "got job directory /nowhere/job, which is unreadable here"),
    ],
)
def test_an_environment_that_cannot_be_is_named(environment, variables, complaint):
    environment(**variables)
    with pytest.raises(ValueError, match=complaint):
        Job.from_environment()


def test_a_worker_that_is_started_again_finds_its_own_exchange_among_those_of_a_program():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def meet(attempt: str) -> tuple[JobDirectory, Hosts]:
        return agree(store, b"a key", attempt, 0, 1)

    first, hosts = meet("gosgd/0/1")
    hosts.open()
    second, _ = meet("gosgd/0/2")
    again, _ = meet("gosgd/1/1")
    assert again.path == first.path != second.path
    for directory in (first, second):
        directory.remove()


@contextlib.contextmanager
def launched(workers: int) -> Iterator[list[dict[str, str]]]:
    """The environment of each worker of a job that has no launcher of ours."""
    with free_port() as port:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = map(str, range(workers))
        yield [{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(workers), **where} for rank in ranks]


def owns(process) -> bool:
    """Whether a process holds the lock of whoever made the directory of the only job there is."""
    (lock,) = root().glob(f"{PREFIX}*/owner.lock")

    def leads_there(link: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            return link.samefile(lock)
        return False

    return any(map(leads_there, Path(f"/proc/{process.pid}/fd").iterdir()))


def test_who_made_the_directory_and_leaves_early_does_not_keep_it(environment):
    environment()
    with launched(2) as environments, reaped([]) as workers:
        for rank, variables in enumerate(environments):
            workers.append(in_process_of_its_own(Worker, "gosgd", rank, {"rho": 0.5}, **variables))
        answers(workers)
        ask_all(workers, "start")
        early, other = sorted(workers, key=owns, reverse=True)
        assert owns(early)
        early.begin("close", 60.0, False)
        until(lambda: other.ask("steps", 1, 0.0) and early.answered())
        assert early.answer() is False
        assert not owns(early)
        assert other.ask("steps", 3, 0.0) > 3
        assert other.ask("close") is True


@pytest.mark.parametrize("method", ["gosgd", "persyn"])
def test_workers_that_come_late_meet_without_a_launcher(environment, method):
    """As under srun or mpirun: rank 0 itself serves the store, and must not take it away before the last has come."""
    environment()
    options = {"rho": 0.5} if method == "gosgd" else {"tau": 2}
    with launched(3) as environments, reaped([]) as workers:
        for rank, variables in enumerate(environments):
            workers.append(in_process_of_its_own(Worker, method, rank, options, **variables))
            time.sleep(0.4)
        answers(workers)
        assert ask_all(workers, "steps", 10, 0.01) == [10] * 3
        assert sorted(ask_all(workers, "close")) == [False, False, True]


def impatient(log: str, *arguments: object) -> Worker:
    """A worker that soon writes to `log` what it waits for."""
    job._SILENT_S = 0.05
    logging.getLogger("gosgd").addHandler(logging.FileHandler(log))
    return Worker(*arguments)


def test_a_worker_that_waits_for_others_at_the_start_says_so(environment, tmp_path):
    environment()
    log = tmp_path / "log"
    with launched(2) as (first, second), reaped([]) as workers:
        workers.append(in_process_of_its_own(impatient, str(log), "gosgd", 0, {"rho": 0.5}, **first))
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        workers.append(in_process_of_its_own(Worker, "gosgd", 1, {"rho": 0.5}, **second))
        answers(workers)
        ask_all(workers, "close")
    said = log.read_text()
    assert said.startswith(f"worker 0: waiting at 127.0.0.1:{first['MASTER_PORT']} for the others of 2 workers")
    assert "worker 0 cannot come back alone: end its others, and start all anew" in said
