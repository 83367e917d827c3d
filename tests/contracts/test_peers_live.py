"""Choosers at work among real processes."""

import pytest
from support.remote import RemoteError

pytestmark = pytest.mark.timeout(60)


def test_adaptive_gossip_keeps_its_rate_and_everybody_hears_of_it(team):
    job = team("gosgd", 4, {"rho": 0.2, "peers": "adaptive"})
    job.ask("start")
    for _ in range(60):  # nobody is ahead of the others by more than five steps, whoever has a processor
        job.ask("steps", 5, 0.01, 0.001)
    stats = job.ask("stats")
    assert 0.15 < sum(one["sent"] for one in stats) / 1200 < 0.22
    assert min(one["received"] for one in stats) > 0.5 * max(one["received"] for one in stats)
    before = job.vectors()
    job.ask("still_steps", 0.5)
    assert job.vectors().std(0).max() < before.std(0).max() / 10
    job.last(job.ask("close"))


def test_mail_that_is_unread_is_expected(team):
    job = team("gosgd", 3, {"rho": 1.0, "peers": "support.choosing:last"})
    job.ask("start")
    sender, other, receiver = job.workers
    assert not other.ask("expects", 2)
    sender.ask("steps", 1, 0.0)
    other.ask("still_steps", 0.0)
    assert other.ask("expects", 2)
    receiver.ask("steps", 1, 0.0)
    sender.ask("attend")
    assert not other.ask("expects", 2)
    assert sender.ask("stats")["sent"] == 1
    job.ask("close")


def test_an_own_chooser_decides(team):
    job = team("gosgd", 3, {"rho": 1.0, "peers": "support.choosing:last"})
    job.ask("start")
    for _ in range(20):
        for worker in job.workers:
            worker.ask("steps", 1, 0.0)
    received = [one["received"] for one in job.ask("stats")]
    assert received[0] == 0
    assert received[2] > 20, "from both others"
    assert received[1] > 10, "from the last"
    job.ask("close")


@pytest.mark.parametrize("peers", ["uniform", "adaptive"])
def test_the_rate_may_be_changed_while_training(team, peers):
    job = team("gosgd", 2, {"rho": 0.0, "peers": peers})
    job.ask("start")
    job.ask("steps", 50, 0.0)
    assert [one["sent"] for one in job.ask("stats")] == [0, 0]
    job.ask("change_rate", 0.5)
    for _ in range(100):
        job.ask("steps", 2, 0.0, 0.0005)
    assert min(one["sent"] for one in job.ask("stats")) > 40
    with pytest.raises(RemoteError, match="rho: got 2"):
        job.workers[0].ask("change_rate", 2.0)
    job.ask("close")
