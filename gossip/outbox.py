"""The queue protocol: sender-owned slots, one unread message per ordered pair, no locks, nobody waits.

Imports gossip.acquaintance, works, mass, fence, open_files and what those import. A member pushes by copying weights
into a free slot of its own and storing one announcement word for the receiver; the receiver merges straight from that
slot and stores one receipt word; only then is the slot free again. Every word has one writer, and each transfer of mass
is one store, so a process may die between any two instructions without a share being counted twice.

Where a device does the copying, the announcement waits until it has copied, and the receipt until it has merged (see
gossip.works). `mass` is what goes with the weights: shares leave it with the snapshot and come with the merge.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial

from gossip import layout
from gossip.acquaintance import Acquaintance
from gossip.fence import load as load_fence
from gossip.layout import FLAG, GIVEN_UP, MASK, Member, State
from gossip.mail import Counters, Letter, Mail, Merge, Peer, Write, check
from gossip.mass import merge_weight
from gossip.open_files import used_up
from gossip.transports.base import SlotLostError, Transport
from gossip.works import Works

_log = logging.getLogger("gosgd")


@dataclass
class Outbox(Acquaintance):
    """One member's end of every queue it takes part in.

    Args:
        transport: where words and slots live.
        mass: shares this member starts with.
        patience: a peer that leaves a message unread for more than this many of our steps is no longer chosen.
    """

    transport: Transport
    mass: int
    patience: int = 50
    counters: Counters = field(default_factory=Counters)
    peers: list[Peer] = field(default_factory=list)

    def __post_init__(self) -> None:
        seats = self.transport.seats
        self._fence = load_fence()
        self._works = Works()
        self._under_way = self._works.open
        self._words = self.transport.words
        self._known: list[int] = [0] * seats
        self._free = list(range(self.transport.slots()))
        self._owned = len(self._free)
        self._sequence = [0] * seats
        self._sent = [0] * seats
        self._received = [0] * seats
        self._receipts = [0] * seats
        self._buried: list[Member] = []

    def refresh(self, merge: Merge) -> None:
        """Meet members that appeared since the last look, whole lives that went by unnoticed included: they may have
        left us mail.

        A newer incarnation on a seat proves the older one's death; the older one is buried before anything is sent to
        the newer, because both share the words our announcements to that seat go through.

        Raises:
            ValueError: this member has no weights yet, and one of the others runs another model.
        """
        newest = []
        for seat, count in enumerate(self.transport.generations()):
            if seat != self.transport.me.seat:
                unmet = [self._meet(Member(seat, age)) for age in range(self._known[seat], count)]
                self.peers += unmet[:-1]
                newest += unmet[-1:]
            self._known[seat] = count
        self.bury(merge)
        self.peers += newest

    def _meet(self, member: Member) -> Peer:
        seat = self.transport.me.seat
        peer = Peer(
            member,
            self.transport.open(member),
            inbox=layout.post(seat) + layout.COMMIT,
            receipt=layout.receipt(self.transport.seats, seat) + layout.ACKNOWLEDGED,
        )
        try:
            self.transport.check(member)
        except ValueError as error:
            if self._words[layout.STATE] < State.ACTIVE:
                raise
            # Whoever comes to those that train already is the one to give up: one mistake must not end the whole job.
            peer.sound = False
            _log.warning("worker %d: left out: %s", member.seat, error)
        return peer

    def poll(self, merge: Merge) -> int:
        """Merge everything that is announced and note which of our own messages were read; never waits.

        Returns:
            The number of messages merged.
        """
        if self._under_way:
            self._works.settle()
        merged = 0
        for peer in self.peers:
            if not self.transport.reachable(peer.member):
                continue
            word = peer.words[peer.inbox]
            if word != peer.seen:
                merged += self._receive(peer, word, merge)
            if peer.pending is not None:
                self._acknowledged(peer, peer.pending)
        return merged

    def push(self, peer: Peer, shares: int, step: int, write: Write) -> bool:
        """Send `shares` with a snapshot of the weights, unless that would mean waiting.

        Returns:
            False when it was skipped and the mass kept: no shares to send, the peer has not read the last message, or
            every slot is pinned by an unread one.
        """
        if shares <= 0:
            return False
        if peer.pending is not None and not self._acknowledged(peer, peer.pending):
            self.counters.skipped_unread += 1
            return False
        slot = self._take_slot()
        if slot is None:
            self.counters.skipped_no_slot += 1
            return False
        assert shares <= self.mass
        seat = peer.member.seat
        self._sequence[seat] += 1
        place = self.transport.place(slot, peer.state() == State.JOINING, peer.member)
        event = write(
            self.transport.slot(self.transport.me, place),
            Letter(self.transport.me, peer.member, self._sequence[seat]),
        )
        peer.pending = Mail(self._sequence[seat], slot, place, shares, step)
        self.mass -= shares
        self.counters.sent += 1
        self._works.after(event, partial(self._announce, peer, peer.pending))
        return True

    def _announce(self, peer: Peer, mail: Mail) -> None:
        seat = peer.member.seat
        self._sent[seat] = (self._sent[seat] + mail.shares) & MASK
        block = layout.details(seat, mail.sequence)
        self._words[block + layout.SLOT] = mail.place
        self._words[block + layout.MASS] = mail.shares
        self._words[block + layout.AT_STEP] = mail.step
        self._words[block + layout.SENT] = self._sent[seat]
        self._fence()
        self._words[layout.post(seat) + layout.COMMIT] = layout.pack(mail.sequence, peer.member.generation)

    def bury(self, merge: Merge) -> list[Member]:
        """Take leave of peers that left or are proven dead: read their last mail, take back what they never read.

        Returned mail is merged by its sender like any other mail (mass stays with the weights it
        belongs to). This alone waits for the device, when somebody has gone.

        Returns:
            The members that were found gone in this call.
        """
        gone = [peer for peer in self.peers if self._gone(peer)]
        if gone:
            self.finish()
        for peer in gone:
            word = peer.words[peer.inbox]
            peer.sound |= peer.lost
            if word != peer.seen or peer.lost:
                self._receive(peer, word, merge)
            if peer.pending is not None and not self._acknowledged(peer, peer.pending):
                if self.transport.settled(peer.member):
                    self._take_back(peer, peer.pending, merge)
                else:
                    self._give_up(peer, peer.pending)
            self.peers.remove(peer)
            self._buried.append(peer.member)
        if gone:
            self.finish()
        self._buried = [member for member in self._buried if not self._discard(member)]
        return [peer.member for peer in gone]

    def finish(self) -> None:
        """Wait for the device, so that the words say everything that has been done."""
        self._works.finish()

    def _receive(self, peer: Peer, word: int, merge: Merge) -> int:
        peer.seen = word
        me = self.transport.me
        if word & FLAG or layout.generation_of(word) != me.generation or not peer.sound:
            return 0
        self._fence()
        sequence = layout.sequence_of(word)
        block = layout.details(me.seat, sequence)
        shares, step = peer.words[block + layout.MASS], peer.words[block + layout.AT_STEP]
        joining = self._words[layout.STATE] == State.JOINING
        slot = None
        try:
            check(shares, step, self.mass)
            slot = self.transport.slot(peer.member, peer.words[block + layout.SLOT])
        except SlotLostError as error:
            if not self.transport.dead(peer.member):
                peer.lost = True
                return self._leave_out(peer, error)
            _log.warning("worker %d: its last message is lost, its mass is not: %s", peer.member.seat, error)
        except (OSError, ValueError, LookupError) as error:
            if used_up(error):
                raise
            return self._leave_out(peer, error)
        event = None
        if slot is not None:
            weight = 1.0 if joining else merge_weight(self.mass, shares)
            event = merge(slot, weight, step, Letter(peer.member, me, sequence))
        self.mass += shares
        self.counters.received += 1
        self._works.after(event, partial(self._confirm, peer, sequence, shares))
        if joining and slot is not None:
            self._words[layout.STATE] = State.ACTIVE
        return 1

    def _leave_out(self, peer: Peer, error: Exception) -> int:
        peer.sound = False
        _log.warning("worker %d: left out, because what it announced makes no sense: %s", peer.member.seat, error)
        return 0

    def _confirm(self, peer: Peer, sequence: int, shares: int) -> None:
        seat = peer.member.seat
        self._received[seat] = (self._received[seat] + shares) & MASK
        self._receipts[seat] += 1
        turn = self._receipts[seat] & 1
        base = layout.receipt(self.transport.seats, seat)
        self._words[base + layout.RECEIVED + turn] = self._received[seat]
        self._fence()
        receipt = layout.pack(sequence, peer.member.generation)
        self._words[base + layout.ACKNOWLEDGED] = receipt | FLAG if turn else receipt

    def _acknowledged(self, peer: Peer, mail: Mail) -> bool:
        receipt = peer.words[peer.receipt] & ~FLAG
        if receipt != layout.pack(mail.sequence, self.transport.me.generation):
            return False
        peer.pending = None
        self._free.append(mail.slot)
        return True

    def _take_back(self, peer: Peer, mail: Mail, merge: Merge) -> None:
        event = merge(
            self.transport.slot(self.transport.me, mail.place),
            merge_weight(self.mass, mail.shares),
            mail.step,
            Letter(self.transport.me, peer.member, mail.sequence),
        )
        self.mass += mail.shares
        peer.pending = None
        self.counters.returned += 1
        self._works.after(event, partial(self._taken_back, peer.member, mail))

    def _taken_back(self, member: Member, mail: Mail) -> None:
        seat = member.seat
        self._sent[seat] = (self._sent[seat] - mail.shares) & MASK
        self._words[layout.post(seat) + layout.COMMIT] = layout.pack(mail.sequence, member.generation) | FLAG
        self._free.append(mail.slot)

    def _give_up(self, peer: Peer, mail: Mail) -> None:
        """Count mail as lost that its receiver may or may not have read: merged here as well it could count twice."""
        post = layout.post(peer.member.seat)
        self._words[post + layout.GIVEN] = (self._words[post + layout.GIVEN] + mail.shares) & MASK
        self._fence()
        word = layout.pack(mail.sequence, peer.member.generation)
        self._words[post + layout.COMMIT] = word | GIVEN_UP
        peer.pending = None
        self._free.append(mail.slot)
        self.counters.given_up += 1

    def _take_slot(self) -> int | None:
        if not self._free:
            for peer in self.reached():
                if peer.pending is not None:
                    self._acknowledged(peer, peer.pending)
        if not self._free:
            self._free.extend(range(self._owned, self.transport.slots()))
            self._owned = max(self._owned, self.transport.slots())
        if not self._free:
            self.transport.grow()
            return None
        return self._free.pop()

    def _gone(self, peer: Peer) -> bool:
        if self._known[peer.member.seat] > peer.member.generation + 1:
            return True
        if not self.transport.reachable(peer.member):
            return False
        return peer.state() == State.GONE or self.transport.dead(peer.member)

    def _discard(self, member: Member) -> bool:
        """Free a gone member's slots once nobody alive can still want to read one of them."""
        words = self.transport.open(member)
        for seat in range(self.transport.seats):
            word = words[layout.post(seat) + layout.COMMIT]
            if layout.sequence_of(word) == 0 or word & (FLAG | GIVEN_UP):
                continue
            receiver = Member(seat, layout.generation_of(word))
            if self._ended(receiver) or not self.transport.together(member, receiver):
                continue
            theirs = self._words if receiver == self.transport.me else self.transport.open(receiver)
            receipt = theirs[layout.receipt(self.transport.seats, member.seat) + layout.ACKNOWLEDGED] & ~FLAG
            if receipt < layout.pack(layout.sequence_of(word), member.generation):  # see gossip.ledger
                return False
        self.transport.discard(member)
        return True
