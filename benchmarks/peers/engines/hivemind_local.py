"""hivemind: its Optimizer with local updates, averaging weights in the background. Imports hivemind."""

from __future__ import annotations

import json
import logging

import hivemind
import torch
from hivemind.p2p import P2P
from hivemind.utils.mpfuture import MPFuture
from torch import nn

from benchmarks.peers.engines.base import Engine, Place

_MATCHMAKING_S = 0.5
"""Its guide has 3 to 5 s for small local runs; a worker finds its only peer at once, and a job here takes seconds."""
_TIMEOUT_S = 2.0


class _Rounds(logging.Handler):
    """Counts the rounds of averaging that the library tells of."""

    made = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.made += record.getMessage().startswith("Averaged parameters with")


def build(model: nn.Module, place: Place) -> Engine:
    """An epoch of the library is `period` steps of all workers."""
    # Locks are made at the import: workers forked of one process share them, and one killed with a lock stops all.
    MPFuture.reset_backend()
    P2P._UNIX_SOCKET_PREFIX = f"/unix{place.folder}/"  # else sockets of killed workers stay in /tmp
    first = [] if place.rank == 0 else json.loads(place.hear("first"))
    dht = hivemind.DHT(host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=first, start=True)
    if place.rank == 0:
        place.tell("first", json.dumps([str(address) for address in dht.get_visible_maddrs()]))
    rounds = _Rounds()
    logging.getLogger("hivemind.optim.state_averager").addHandler(rounds)

    def local(parameters: object) -> torch.optim.Optimizer:
        return place.optimizer(parameters)

    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="peers",
        batch_size_per_step=place.batch_size,
        target_batch_size=place.batch_size * place.period * place.workers,
        params=model.parameters(),
        optimizer=local,
        use_local_updates=True,
        delay_state_averaging=True,
        matchmaking_time=_MATCHMAKING_S,
        averaging_timeout=_TIMEOUT_S,
        averager_opts={"target_group_size": place.workers, "request_timeout": 0.8 * _MATCHMAKING_S},
        tracker_opts={"default_refresh_period": 0.3, "min_refresh_period": 0.1, "max_refresh_period": 1.0},
        verbose=True,
    )

    def close() -> None:
        optimizer.shutdown()
        dht.shutdown()

    return Engine(model, optimizer, met=lambda: rounds.made, close=close)
