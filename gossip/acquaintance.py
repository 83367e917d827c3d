"""Whom a member knows, and what their words tell it. Imports gossip.layout, gossip.mail and the transport interface."""

from __future__ import annotations

from gossip import layout
from gossip.layout import FLAG, GIVEN_UP, Member, State
from gossip.mail import Peer
from gossip.transports.base import Transport


class Acquaintance:
    """What a member can tell of its peers without changing anything.

    Attributes:
        transport: where words and slots live.
        patience: a peer that leaves a message unread for more than this many of our steps is no longer chosen.
        peers: those it has met and not taken leave of.
    """

    transport: Transport
    patience: int
    peers: list[Peer]

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

    def _ended(self, member: Member) -> bool:
        if member == self.transport.me:
            return False
        return self.transport.open(member)[layout.STATE] == State.GONE or self.transport.dead(member)
