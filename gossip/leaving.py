"""Leaving a job with all of one's mass, and taking over when every holder of mass has died.

Imports gossip.layout, gossip.ledger, gossip.mail and gossip.outbox. Both are written as single attempts that never
wait, so that whoever calls them decides how long to go on.
"""

from __future__ import annotations

from gossip import layout
from gossip.layout import State
from gossip.ledger import audit, extinct
from gossip.mail import Merge, Peer, Write
from gossip.outbox import Outbox


def depart(outbox: Outbox, step: int, write: Write, merge: Merge) -> bool | None:
    """One attempt to leave: read the inbox, then hand the whole mass to the lowest member that stays.

    The lowest of those that leave waits for the others' mass, unless somebody stays who can take its own: so exactly
    one member ends up with everything.

    Returns:
        None while there is something left to do, True when this member is the last one and holds the consensus
        model, False when its mass is handed over and it may go.
    """
    words = outbox.transport.words
    words[layout.STATE] = State.LEAVING
    outbox.refresh(merge)
    outbox.poll(merge)
    outbox.bury(merge)
    if not outbox.peers:
        return True
    if outbox.mass == 0 and outbox.unread() == 0:
        words[layout.STATE] = State.GONE
        return False
    heir = _heir(outbox)
    if heir is not None:
        outbox.push(heir, outbox.mass, step, write)
    return None


def _heir(outbox: Outbox) -> Peer | None:
    lowest = min(outbox.peers, key=lambda peer: peer.member)
    reached = outbox.reached()
    staying = [peer for peer in reached if peer.state() in (State.JOINING, State.ACTIVE)]
    if staying:
        return min(staying, key=lambda peer: peer.member)
    return lowest if lowest in reached and lowest.member < outbox.transport.me else None


def inherit(outbox: Outbox, founders: int) -> int:
    """One attempt to re-issue the mass of a job whose holders are all dead; only the lowest living member may.

    Being the lowest can be disputed while another member is just starting, so the right is claimed first, and a
    claim passes on only when its holder is dead.

    Returns:
        The shares taken; 0 if mass is still held or on its way, if somebody cannot be reached who may hold it, or if
        it is not this member's turn.
    """
    transport = outbox.transport
    unreachable = len(outbox.peers) - len(outbox.reached())
    if outbox.mass or unreachable or any(peer.member < transport.me for peer in outbox.peers):
        return 0
    try:
        if not extinct(audit(transport, founders)):
            return 0
    except TimeoutError:  # mass is moving, so somebody holds it
        return 0
    attempt = 0
    while not transport.claim(f"extinction-{attempt}"):
        holder = transport.claimant(f"extinction-{attempt}")
        if holder != transport.me and (holder is None or not transport.dead(holder)):
            return 0
        attempt += 1
    missing = audit(transport, founders).lost
    transport.words[layout.TAKEN] = transport.words[layout.TAKEN] + missing
    outbox.mass += missing
    return missing
