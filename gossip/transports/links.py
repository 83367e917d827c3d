"""What is known of a member of another host and of the connection to it. Imports gossip.layout, transports' notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gossip.layout import Member
from gossip.transports.mirror import Mirror
from gossip.transports.notes import About, Standing


@dataclass
class Transfer:
    """A vector on its way here; `then` is called when it has come."""

    handle: Any
    then: Callable[[], None]


@dataclass
class Link:
    """One member of another host, and the connection to it.

    Attributes:
        words: what it has told of its control words.
        name: of its agent, as long as there is a connection, used or not.
        connected: whether the connection is used: it has not failed.
        up: whether it has been heard on the present connection, and lately.
        heard_at: when it was heard last; when it was introduced, before.
        met: whether it has ever told how it stands; before, nobody here knows of it.
        ended: whether it is proven that its process is gone.
        settled: whether its last words are known: no receipt can be missing any more.
        announced: its announcement to us that has not been shown yet.
        books: whether all its words are known, its last ones.
        discarded: whether nothing more is wanted of it.
        staged: which staging place holds, or will hold, its vector.
    """

    about: About
    words: Mirror = field(default_factory=Mirror)
    name: str = ""
    connected: bool = False
    up: bool = False
    met: bool = False
    ended: bool = False
    settled: bool = False
    since: float = 0.0
    heard_at: float = 0.0
    retry_at: float = 0.0
    told_at: float = 0.0
    urgent: bool = False
    greeted: int = -1
    heard: int = 0
    confirmed: int = 0
    announced: Standing | None = None
    staged: int | None = None
    discarded: bool = False
    books: bool = False
    transfer: Transfer | None = None
    publication: int = 0
    snapshots: Tensor | None = None

    @property
    def member(self) -> Member:
        """Whose."""
        return self.about.member
