"""The queue protocol under every interleaving of two and three members, with a crash at every point."""

import pytest
from explorer import Explorer
from modelled import Player, Scenario
from operations import appear, bury, meet, poll, push

from gossip.layout import Member, State
from gossip.leaving import depart, inherit
from gossip.mass import TOTAL
from gossip.outbox import Outbox

A, B, C, A1, B1, C1 = (Member(seat, generation) for generation in (0, 1) for seat in range(3))

pytestmark = pytest.mark.timeout(100)


def say(outcome: str):
    return lambda player: outcome


def feed(seat: int):
    """Push to a member that waits for its first message, unless it seems to have one."""

    def operation(player: Player):
        outbox = player.outbox
        hungry = [peer for peer in outbox.peers if peer.member.seat == seat and peer.state() == State.JOINING]
        if hungry and outbox.mass > 1 and not outbox.fed(hungry[0]):
            outbox.push(hungry[0], outbox.mass // 2, player.letters + 1, player.write)

    return operation


def attempt(player: Player):
    outcome = depart(player.outbox, player.letters + 1, player.write, player.merge)
    return None if outcome is None else "last" if outcome else "gone"


def leave(attempts: int):
    return [*[attempt] * attempts, say("gave up")]


def join(polls: int):
    """Appear with nothing and wait for the first message."""
    return [appear, meet, *[poll] * polls, lambda player: "fed" if player.fed else "hungry"]


def take(player: Player):
    return "took" if inherit(player.outbox, 1) else None


def held_is_what_the_words_say(ends, ledger):
    for member, end in ends.items():
        assert end.mass == ledger.held.get(member, 0)
    outcomes = tuple(sorted(end.outcome for end in ends.values() if isinstance(end.outcome, str)))
    assert outcomes.count("last") <= 1
    return outcomes


def explore(programs, founders, check_end=held_is_what_the_words_say, **options):
    return Explorer(Scenario(programs, founders, **options), check_end).run()


def test_two_members_pushing_at_each_other():
    mine = [meet, push(1), poll, push(1), poll]
    theirs = [meet, push(0), poll, push(0), poll]
    assert explore({A: mine, B: theirs}, 2, crashes=1).states > 1000


def test_unread_mail_returns_when_the_receiver_dies_and_mail_of_a_dead_sender_is_read():
    mine = [meet, push(1), bury, push(1), bury]
    theirs = [meet, poll, push(0), bury, poll]
    assert explore({A: mine, B: theirs}, 2, crashes=2).ends > 10


def test_one_slot_is_never_reused_before_it_was_read():
    mine = [meet, push(1), push(1), poll, push(1)]
    assert explore({A: mine, B: [meet, poll, poll, poll]}, 2, slots=1).ends > 10


def test_three_members_in_a_ring_with_a_death():
    programs = {A: [meet, push(1), poll, bury], B: [meet, push(2), poll], C: [meet, push(0), poll]}
    assert explore(programs, 3, crashes=1).states > 10_000


def test_two_senders_and_one_receiver_that_dies():
    programs = {A: [meet, push(1), bury], B: [meet, poll, poll], C: [meet, push(1), bury]}
    assert explore(programs, 3, crashes=1).ends > 10


def test_the_pool_grows_at_any_moment_while_one_slot_is_pinned_and_comes_back():
    """B reads late or dies with A's only slot pinned; A goes on with the slot that has appeared meanwhile, or skips."""
    mine = [meet, push(1), push(2), push(2), bury, push(2)]
    programs = {A: mine, B: [meet, poll], C: [meet, poll, poll]}
    assert explore(programs, 3, crashes=1, slots=1, mortal=frozenset({B, C})).states > 1000


def test_members_that_are_out_of_reach_and_back_at_any_moment():
    programs = {A: [meet, push(1), bury, poll, push(1)], B: [meet, poll, push(0), bury]}
    assert explore(programs, 2, crashes=1, cut=True).ends > 10


def test_a_restarted_member_does_not_touch_its_predecessors_mail_and_is_fed():
    mine = [meet, push(1), meet, push(1), poll, meet, push(1)]
    programs = {A: mine, B: [meet, push(0), poll], B1: join(3)}
    report = explore(programs, 2, crashes=1, mortal=frozenset({B}), born_later=frozenset({B1}))
    assert ("fed",) in report.outcomes


def test_a_restarted_member_dies_again_while_it_is_fed():
    mine = [meet, push(1), meet, push(1), bury]
    programs = {A: mine, B: [meet], B1: join(2)}
    options = {"crashes": 2, "mortal": frozenset({B, B1}), "born_later": frozenset({B1})}
    assert explore(programs, 2, **options).ends > 10


def test_mail_returns_from_whole_lives_that_went_by_unnoticed():
    """A stands still while B and its successor live and die, having read A's mail or not, having sent some or not."""
    mine = [meet, push(1), meet, push(1), meet, push(1)]
    programs = {A: mine, B: [meet, poll], B1: [*join(1)[:-1], push(0)], Member(1, 2): join(1)}
    options = {"mortal": frozenset({B, B1}), "born_later": frozenset({B1, Member(1, 2)})}
    report = explore(programs, 2, crashes=2, **options)
    assert ("fed",) in report.outcomes


def test_a_joiner_fed_by_two_of_whom_anybody_dies():
    feeder = [meet, feed(2), bury]
    report = explore({A: feeder, B: feeder, C: join(2)}, 2, crashes=1, born_later=frozenset({C}))
    assert {("fed",), ("hungry",), ()} <= report.outcomes


def test_a_joiner_that_is_killed_while_two_feed_it_and_the_next_one_is_fed():
    feeder = [meet, feed(2), meet, feed(2)]
    programs = {A: feeder, B: [meet, feed(2), bury], C: join(1), C1: join(1)}
    report = explore(programs, 2, crashes=1, mortal=frozenset({C}), born_later=frozenset({C, C1}))
    assert ("fed",) in report.outcomes


def test_a_joiner_passes_on_what_it_was_fed_and_anybody_dies():
    programs = {A: [meet, feed(1), poll, bury], B1: [*join(1)[:-1], push(0), bury], B: []}
    options = {"dead": frozenset({B}), "born_later": frozenset({B1})}
    assert explore(programs, 2, crashes=2, mortal=frozenset({A, B1}), **options).ends > 10


def test_when_everybody_leaves_exactly_one_member_ends_with_everything():
    def end(ends, ledger):
        results = tuple(one.outcome for one in ends.values())
        if "gave up" not in results:
            assert sorted(results) == ["gone", "last"]
            assert [one.mass for one in ends.values() if one.outcome == "last"] == [TOTAL]
        return results

    programs = {A: [meet, *leave(4)], B: [meet, push(0), *leave(4)]}
    assert {("last", "gone"), ("gone", "last")} <= explore(programs, 2, end, crashes=0).outcomes


def test_two_leave_at_once_and_one_of_them_dies():
    report = explore({A: [meet, push(1), *leave(4)], B: leave(4)}, 2, crashes=1)
    assert {("last",), ("gone",), ("gone", "last")} <= report.outcomes


def test_the_heir_dies_while_another_leaves():
    programs = {A: [meet, poll], B: [meet, *leave(3)], C: [meet, poll]}
    report = explore(programs, 3, crashes=1, mortal=frozenset({A}))
    assert ("gone",) in report.outcomes


def test_two_leave_a_third_and_one_of_them_dies_on_the_way():
    programs = {A: leave(2), B: leave(2), C: [meet, poll]}
    report = explore(programs, 3, crashes=1, mortal=frozenset({B}))
    assert ("gone", "gone") in report.outcomes


def test_the_mass_of_a_leaver_goes_to_a_joiner_that_dies():
    programs = {A: [meet, *leave(3)], B: [], B1: join(1)}
    options = {"dead": frozenset({B}), "mortal": frozenset({B1}), "born_later": frozenset({B1})}
    report = explore(programs, 2, crashes=1, **options)
    assert {("fed", "gone"), ("last",), ("gone",)} <= report.outcomes


def one_holder_at_most(ends, ledger):
    assert sum(mass > 0 for mass in ledger.held.values()) <= 1
    return held_is_what_the_words_say(ends, ledger)


def test_the_mass_of_an_extinct_job_is_reissued_once():
    """A held everything and died; its successor and B, who hold nothing, may both think it their turn."""
    heir = [appear, meet, bury, take]
    options = {"crashes": 0, "dead": frozenset({A}), "born_later": frozenset({A1, B})}
    report = explore({A: [], A1: heir, B: heir}, 1, one_holder_at_most, **options)
    assert report.outcomes <= {(), ("took",)}
    assert ("took",) in report.outcomes


def test_a_candidate_for_an_extinct_jobs_mass_dies_before_or_after_it_has_taken():
    heir = [appear, meet, take, meet, take]
    options = {"crashes": 1, "dead": frozenset({A}), "mortal": frozenset({A1}), "born_later": frozenset({A1, B})}
    report = explore({A: [], A1: heir[:3], B: heir}, 1, one_holder_at_most, **options)
    assert ("took",) in report.outcomes


class AnnouncesTooEarly(Outbox):
    """Broken on purpose: the announcement overtakes the payload."""

    def push(self, peer, shares, step, write):
        late = []
        pushed = super().push(peer, shares, step, lambda *message: late.append(message))
        for message in late:
            write(*message)
        return pushed


class ConfirmsTooEarly(Outbox):
    """Broken on purpose: the slot is released before it was read."""

    def _receive(self, peer, word, merge):
        late = []
        received = super()._receive(peer, word, lambda *message: late.append(message))
        for message in late:
            merge(*message)
        return received


class AddsInPlace(Outbox):
    """Broken on purpose: the running total that a receipt already selects is overwritten."""

    def _confirm(self, peer, sequence, shares):
        self._receipts[peer.member.seat] += 1
        super()._confirm(peer, sequence, shares)


class TakesBackTooSoon(Outbox):
    """Broken on purpose: silence is taken for death."""

    def _gone(self, peer):
        return peer.pending is not None or super()._gone(peer)


class FreesTooSoon(Outbox):
    """Broken on purpose: the slots of the dead are freed with mail in them."""

    def _discard(self, member):
        self.transport.discard(member)
        return True


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (AnnouncesTooEarly, "torn"),
        (ConfirmsTooEarly, "torn"),
        (AddsInPlace, "balance"),
        (TakesBackTooSoon, "twice"),
        (FreesTooSoon, "freed"),
    ],
)
def test_the_explorer_finds_planted_faults(monkeypatch, broken, complaint):
    import explorer as module

    monkeypatch.setattr(module, "Outbox", broken)
    programs = {A: [meet, push(1), poll, push(1), bury, push(1)], B: [meet, poll, poll, poll], C: [meet, bury]}
    with pytest.raises(AssertionError, match=complaint):
        explore(programs, 3, slots=1, mortal=frozenset({A}))


def test_nothing_is_sent_without_shares():
    """Halving leaves the odd share with the sender, so a member with one share sends zero, that is nothing."""

    def mine(player: Player):
        return player.outbox.push(player.outbox.peers[0], 0, 1, player.write)

    report = explore({A: [meet, mine], B: [meet]}, 2, lambda ends, ledger: ends[A].outcome, crashes=0)
    assert report.outcomes == {False}
