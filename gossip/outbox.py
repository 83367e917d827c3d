"""The queue protocol: sender-owned slots, one unread message per ordered pair, no locks, nobody waits.

Imports gossip.mail, gossip.layout, gossip.mass, gossip.fence and the transport interface. A member pushes by copying
its weights into a free slot of its own and storing one announcement word for the receiver; the receiver merges straight
from that slot and stores one receipt word; only then is the slot free again. Every word has one writer, and each
transfer of mass is one store, so a process may die between any two instructions without a share being counted twice.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from gossip import layout
from gossip.fence import load as load_fence
from gossip.layout import FLAG, GIVEN_UP, MASK, Member, State
from gossip.mail import Counters, Letter, Mail, Merge, Peer, Write, check
from gossip.mass import merge_weight
from gossip.transports.base import Transport

_log = logging.getLogger("gosgd")


@dataclass
class Outbox:
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
        return Peer(
            member,
            self.transport.open(member),
            inbox=layout.post(seat) + layout.COMMIT,
            receipt=layout.receipt(self.transport.seats, seat) + layout.ACKNOWLEDGED,
        )

    def poll(self, merge: Merge) -> int:
        """Merge everything that is announced and note which of our own messages were read; never waits.

        Returns:
            The number of messages merged.
        """
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
        place = self.transport.place(slot, whole=peer.state() == State.JOINING)
        write(
            self.transport.slot(self.transport.me, place),
            Letter(self.transport.me, peer.member, self._sequence[seat]),
        )
        self._sent[seat] = (self._sent[seat] + shares) & MASK
        sequence, block = self._sequence[seat], layout.details(seat, self._sequence[seat])
        self._words[block + layout.SLOT] = place
        self._words[block + layout.MASS] = shares
        self._words[block + layout.AT_STEP] = step
        self._words[block + layout.SENT] = self._sent[seat]
        self._fence()
        self._words[layout.post(seat) + layout.COMMIT] = layout.pack(sequence, peer.member.generation)
        self.mass -= shares
        peer.pending = Mail(sequence, slot, place, shares, step)
        self.counters.sent += 1
        return True

    def bury(self, merge: Merge) -> list[Member]:
        """Take leave of peers that left or are proven dead: read their last mail, take back what they never read.

        Returned mail is merged by its sender like any other mail (spec section 1: mass stays with the weights it
        belongs to).

        Returns:
            The members that were found gone in this call.
        """
        gone = [peer for peer in self.peers if self._gone(peer)]
        for peer in gone:
            word = peer.words[peer.inbox]
            if word != peer.seen:
                self._receive(peer, word, merge)
            if peer.pending is not None and not self._acknowledged(peer, peer.pending):
                if self.transport.settled(peer.member):
                    self._take_back(peer, peer.pending, merge)
                else:
                    self._give_up(peer, peer.pending)
            self.peers.remove(peer)
            self._buried.append(peer.member)
        self._buried = [member for member in self._buried if not self._discard(member)]
        return [peer.member for peer in gone]

    def choosable(self, step: int) -> list[Peer]:
        """Peers a message may go to: active, in reach, and not silent on our last for more than `patience` steps."""
        return [
            peer
            for peer in self.peers
            if peer.state() == State.ACTIVE
            and peer.sound
            and self.transport.reachable(peer.member)
            and (peer.pending is None or step - peer.pending.step <= self.patience)
        ]

    def reached(self) -> list[Peer]:
        """Peers on this side of whatever partition there is, and of sound mind."""
        return [peer for peer in self.peers if peer.sound and self.transport.reachable(peer.member)]

    def present(self) -> list[Peer]:
        """Peers worth waiting for."""
        return [peer for peer in self.peers if not self.transport.absent(peer.member)]

    def unread(self) -> int:
        """How many of our messages wait to be read by somebody worth waiting for."""
        return sum(peer.pending is not None for peer in self.present())

    def expects(self, peer: Peer) -> bool:
        """Whether a peer has unread mail of anybody's (a hint: it may have read or received some meanwhile)."""
        if peer.pending is not None:
            return True
        post = layout.post(peer.member.seat) + layout.COMMIT
        for other in self.peers:
            word = other.words[post]
            away = not self.transport.together(other.member, peer.member)
            if other is not peer and not away and layout.sequence_of(word) and not word & (FLAG | GIVEN_UP):
                receipt = layout.receipt(self.transport.seats, other.member.seat) + layout.ACKNOWLEDGED
                read = layout.pack(layout.sequence_of(word), other.member.generation)
                if layout.generation_of(word) == peer.member.generation and peer.words[receipt] & ~FLAG != read:
                    return True
        return False

    def fed(self, joiner: Peer) -> bool:
        """Whether anybody has already announced mail to a joining member (a hint: it saves needless sends)."""
        if joiner.pending is not None:
            return True
        post = layout.post(joiner.member.seat) + layout.COMMIT
        return any(
            peer is not joiner
            and layout.sequence_of(word := peer.words[post]) > 0
            and not word & (FLAG | GIVEN_UP)
            and layout.generation_of(word) == joiner.member.generation
            for peer in self.peers
        )

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
        try:
            check(shares, step, self.mass)
            slot = self.transport.slot(peer.member, peer.words[block + layout.SLOT])
        except (OSError, ValueError, LookupError) as error:
            peer.sound = False
            _log.warning("worker %d: left out, because what it announced makes no sense: %s", peer.member.seat, error)
            return 0
        merge(slot, 1.0 if joining else merge_weight(self.mass, shares), step, Letter(peer.member, me, sequence))
        self._confirm(peer, sequence, shares)
        self.mass += shares
        self.counters.received += 1
        if joining:
            self._words[layout.STATE] = State.ACTIVE
        return 1

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
        seat = peer.member.seat
        merge(
            self.transport.slot(self.transport.me, mail.place),
            merge_weight(self.mass, mail.shares),
            mail.step,
            Letter(self.transport.me, peer.member, mail.sequence),
        )
        self._sent[seat] = (self._sent[seat] - mail.shares) & MASK
        self._words[layout.post(seat) + layout.COMMIT] = layout.pack(mail.sequence, peer.member.generation) | FLAG
        self.mass += mail.shares
        peer.pending = None
        self._free.append(mail.slot)
        self.counters.returned += 1

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

    def _ended(self, member: Member) -> bool:
        if member == self.transport.me:
            return False
        return self.transport.open(member)[layout.STATE] == State.GONE or self.transport.dead(member)
