"""Servers of the central variable that do what tests need of them."""

from __future__ import annotations

import os

from gossip.server.serve import Server


class Mute(Server):
    """Dies when it has made its third move, and before it can say so."""

    def _handle(self, client, message):
        answer = super()._handle(client, message)
        if answer and answer.get("number") == 3:
            os._exit(1)
        return answer
