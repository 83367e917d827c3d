"""Leaving a job with all of one's mass, and taking over when every holder of mass has died.

Imports gossip.layout, gossip.ledger, gossip.mail, gossip.outbox and the transport interface. Both are written as
single attempts that never wait, so that whoever calls them decides how long to go on.
"""

from __future__ import annotations

from gossip import layout
from gossip.layout import State
from gossip.ledger import audit, extinct
from gossip.mail import Merge, Peer, Write
from gossip.mass import SCANT
from gossip.outbox import Outbox
from gossip.transports.base import Transport

_OVER = "over"


class JobOverError(RuntimeError):
    """A worker came when the last one had left with the consensus model: there is nobody to learn from."""


def depart(outbox: Outbox, step: int, write: Write, merge: Merge) -> bool | None:
    """One attempt to leave: read the inbox, then hand the whole mass to the lowest member that stays.

    The lowest of those that leave waits for the others' mass, unless somebody stays who can take its own: so exactly
    one member ends up with everything.

    Nobody waits for members that have been out of reach for long: their mass, and what was on its way to them, is lost
    to this side of the partition.

    Returns:
        None while there is something left to do, True when this member is the last one and holds the consensus
        model, False when its mass is handed over and it may go.
    """
    words = outbox.transport.words
    words[layout.STATE] = State.LEAVING
    outbox.refresh(merge)
    outbox.poll(merge)
    outbox.bury(merge)
    if not outbox.present():
        return True
    if outbox.mass == 0 and outbox.unread() == 0:
        words[layout.STATE] = State.GONE
        return False
    heir = _heir(outbox)
    if heir is not None:
        outbox.push(heir, outbox.mass, step, write)
    return None


def _heir(outbox: Outbox) -> Peer | None:
    lowest = min(outbox.present(), key=lambda peer: peer.member)
    reached = outbox.reached()
    staying = [peer for peer in reached if peer.state() in (State.JOINING, State.ACTIVE)]
    if staying:
        return min(staying, key=lambda peer: peer.member)
    return lowest if lowest in reached and lowest.member < outbox.transport.me else None


def finish(transport: Transport) -> None:
    """Note that this member leaves as the last one, for those that are still on their way here."""
    _claim_in_turn(transport, _OVER)


def over(transport: Transport) -> bool:
    """Whether somebody has left as the last one; a last one that died before it was through does not count."""
    attempt = 0
    while (holder := transport.claimant(f"{_OVER}-{attempt}")) is not None:
        if transport.open(holder)[layout.STATE] == State.GONE:
            return True
        attempt += 1
    return False


def _claim_in_turn(transport: Transport, name: str) -> bool:
    """Claim what only one living member may have: a claim passes on only when its holder is dead."""
    attempt = 0
    while not transport.claim(f"{name}-{attempt}"):
        holder = transport.claimant(f"{name}-{attempt}")
        if holder == transport.me:
            return True
        if holder is None or not transport.dead(holder):
            return False
        attempt += 1
    return True


def inherit(outbox: Outbox, founders: int) -> int:
    """One attempt to re-issue the mass of a job whose holders are dead; only the lowest living member may.

    Being the lowest can be disputed while another member is just starting, so the right is claimed first, and a
    claim passes on only when its holder is dead. A claim is for one extinction: those before it have been told apart
    by how much had been taken until then.

    Returns:
        The shares taken; 0 if enough mass is still held or on its way, if somebody cannot be reached who may hold it,
        or if it is not this member's turn.
    """
    transport = outbox.transport
    if outbox.mass >= SCANT or not transport.auditable() or not _next_in_line(outbox):
        return 0
    try:
        ledger = audit(transport, founders)
        if not extinct(ledger) or not _claim_in_turn(transport, f"extinction-{ledger.taken}"):
            return 0
        now = audit(transport, founders)
    except TimeoutError:  # mass is moving, so somebody holds it
        return 0
    if now.taken != ledger.taken or not extinct(now) or not now.balanced:
        return 0
    shares = now.lost - now.awaited  # a founder that comes after this must not make more of the mass than there is
    transport.words[layout.TAKEN] = transport.words[layout.TAKEN] + shares
    outbox.mass += shares
    return shares


def _next_in_line(outbox: Outbox) -> bool:
    """Whether a member is the lowest of those that have weights, or of all if nobody has."""
    me, reached = outbox.transport.me, outbox.reached()
    if len(reached) < len(outbox.peers):
        return False
    active = [peer for peer in reached if peer.state() == State.ACTIVE]
    if outbox.transport.words[layout.STATE] == State.ACTIVE:
        return all(peer.member > me for peer in active)
    return not active and all(peer.member > me for peer in reached)
