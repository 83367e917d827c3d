"""The queue protocol under every interleaving of two and three members, with a crash at every point."""

import pytest
from explorer import Explorer, Player, Scenario

from gossip.layout import Member
from gossip.leaving import depart, inherit
from gossip.mass import TOTAL
from gossip.outbox import Outbox

A, B, C, A1, B1 = Member(0, 0), Member(1, 0), Member(2, 0), Member(0, 1), Member(1, 1)

pytestmark = pytest.mark.timeout(100)


def meet(player: Player) -> None:
    player.outbox.refresh(player.merge)


def poll(player: Player) -> None:
    player.outbox.poll(player.merge)


def bury(player: Player) -> None:
    player.outbox.bury(player.merge)


def sequence(*operations):
    def program(player: Player):
        result = None
        for operation in operations:
            result = operation(player)
        return result

    return program


def push(seat: int, whole: bool = False):
    return lambda player: player.push(seat, whole)


def leave(attempts: int):
    def program(player: Player):
        for _ in range(attempts):
            outcome = depart(player.outbox, player.letters + 1, player.write, player.merge)
            if outcome is not None:
                return "last" if outcome else "gone"
        return "gave up"

    return program


def join(attempts: int):
    """Appear with nothing and wait for the first message."""

    def program(player: Player):
        player.transport.appear()
        meet(player)
        for _ in range(attempts):
            if player.outbox.poll(player.merge):
                return "fed"
        return "hungry"

    return program


def held_is_what_the_words_say(ends, crashed, memory, explorer):
    ledger = explorer.ledger(memory, crashed)
    for member, (mass, _, _) in ends.items():
        assert mass == ledger.held.get(member, 0)
    return tuple(sorted(result for _, _, result in ends.values() if isinstance(result, str)))


def explore(programs, founders, **options):
    explorer = Explorer(Scenario(programs, founders, **options), held_is_what_the_words_say)
    return explorer.run()


def test_two_members_pushing_at_each_other():
    mine = sequence(meet, push(1), poll, push(1), poll)
    theirs = sequence(meet, push(0), poll, push(0), poll)
    report = explore({A: mine, B: theirs}, 2, crashes=1)
    assert report.states > 1000


def test_unread_mail_returns_when_the_receiver_dies_and_mail_of_a_dead_sender_is_read():
    mine = sequence(meet, push(1), bury, push(1), bury)
    theirs = sequence(meet, poll, push(0), bury, poll)
    assert explore({A: mine, B: theirs}, 2, crashes=2).ends > 10


def test_one_slot_is_never_reused_before_it_was_read():
    mine = sequence(meet, push(1), push(1), poll, push(1))
    theirs = sequence(meet, poll, poll, poll)
    assert explore({A: mine, B: theirs}, 2, slots=1).ends > 10


def test_three_members_in_a_ring_with_a_death():
    programs = {
        A: sequence(meet, push(1), poll, bury),
        B: sequence(meet, push(2), poll),
        C: sequence(meet, push(0), poll),
    }
    report = explore(programs, 3, crashes=1, mortal=frozenset({B}))
    assert report.states > 10_000


def test_two_senders_and_one_receiver_that_dies():
    programs = {A: sequence(meet, push(1), bury), B: sequence(meet, poll, poll), C: sequence(meet, push(1), bury)}
    assert explore(programs, 3, crashes=1).ends > 10


def test_a_restarted_member_does_not_touch_its_predecessors_mail_and_is_fed():
    mine = sequence(meet, push(1), meet, push(1), poll, meet, push(1))
    programs = {A: mine, B: sequence(meet, push(0), poll), B1: join(3)}
    explorer = Explorer(
        Scenario(programs, 2, crashes=1, mortal=frozenset({B}), born_later=frozenset({B1})), held_is_what_the_words_say
    )
    report = explorer.run()
    assert ("fed",) in report.outcomes


def test_a_restarted_member_dies_again_while_it_is_fed():
    mine = sequence(meet, push(1), meet, push(1), bury)
    programs = {A: mine, B: sequence(meet), B1: join(2)}
    options = {"crashes": 2, "mortal": frozenset({B, B1}), "born_later": frozenset({B1})}
    assert explore(programs, 2, **options).ends > 10


def test_when_everybody_leaves_exactly_one_member_ends_with_everything():
    explorer = Explorer(Scenario({A: sequence(meet, leave(4)), B: sequence(meet, push(0), leave(4))}, 2, crashes=0))
    outcomes = set()

    def end(ends, crashed, memory, _):
        results = tuple(result for _, _, result in ends.values())
        if "gave up" not in results:
            assert sorted(results) == ["gone", "last"]
            assert [mass for mass, _, result in ends.values() if result == "last"] == [TOTAL]
        outcomes.add(results)

    explorer.check_end = end
    explorer.run()
    assert {("last", "gone"), ("gone", "last")} <= outcomes


def test_three_members_leave_and_one_of_them_dies_on_the_way():
    programs = {A: sequence(meet, leave(2)), B: sequence(meet, leave(1)), C: sequence(meet, poll)}
    report = explore(programs, 3, crashes=1, mortal=frozenset({B}))
    assert all(outcome.count("last") <= 1 for outcome in report.outcomes)


def test_the_mass_of_an_extinct_job_is_reissued_once():
    """A held everything and died; its successor and B, who hold nothing, may both think it their turn."""

    def heir(player: Player):
        player.transport.appear()
        meet(player)
        bury(player)
        return "took" if inherit(player.outbox, 1) else "nothing"

    programs = {A: sequence(meet), A1: heir, B: heir}
    report = explore(programs, 1, crashes=0, dead=frozenset({A}), born_later=frozenset({A1, B}))
    assert any("took" in outcome for outcome in report.outcomes)
    assert all(outcome.count("took") <= 1 for outcome in report.outcomes)


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


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [(AnnouncesTooEarly, "torn"), (ConfirmsTooEarly, "torn"), (AddsInPlace, "balance")],
)
def test_the_explorer_finds_planted_faults(monkeypatch, broken, complaint):
    import explorer as module

    monkeypatch.setattr(module, "Outbox", broken)
    mine, theirs = sequence(meet, push(1), poll, push(1), poll, push(1)), sequence(meet, poll, poll, poll)
    with pytest.raises(AssertionError, match=complaint):
        explore({A: mine, B: theirs}, 2, slots=1)


def test_nothing_is_sent_without_shares():
    """Halving leaves the odd share with the sender, so a member with one share sends zero, that is nothing."""

    def mine(player: Player):
        meet(player)
        return player.outbox.push(player.outbox.peers[0], 0, 1, player.write)

    scenario = Scenario({A: mine, B: sequence(meet)}, 2, crashes=0)
    assert Explorer(scenario, lambda ends, *_: ends[A][2]).run().outcomes == {False}
