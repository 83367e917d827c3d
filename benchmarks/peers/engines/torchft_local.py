"""torchft: LocalSGD, whose workers agree through a lighthouse on who averages. Imports torchft."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined, unused-ignore]
from torchft import Manager, ProcessGroupGloo
from torchft.coordination import LighthouseServer
from torchft.local_sgd import LocalSGD

from benchmarks.peers.engines.base import Engine, Place

_stores: list[object] = []
"""Kept: a manager only knows the address of its store, which this process serves."""


def serve(place: Place) -> None:
    """A lighthouse with the settings of torchft's own example of LocalSGD."""
    lighthouse = LighthouseServer(bind="[::]:0", min_replicas=1, join_timeout_ms=10_000, quorum_tick_ms=100)
    place.tell("server", lighthouse.address())
    threading.Event().wait()


def build(model: nn.Module, place: Place) -> Engine:
    """Each worker is a replica group of its own; one of them alone may go on."""
    optimizer = place.optimizer(model.parameters())

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    _stores.append(store)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=60)),
        load_state_dict=load,
        state_dict=state,
        min_replica_size=1,
        use_async_quorum=False,
        init_sync=False,  # all begin with the same weights
        replica_id=f"worker{place.rank}",
        store_addr="localhost",
        store_port=store.port,
        rank=0,
        world_size=1,
        lighthouse_addr=place.server,
        hostname="localhost",
    )
    local = LocalSGD(manager, model, optimizer, sync_every=place.period)
    local.__enter__()

    def close() -> None:
        local.__exit__(None, None, None)
        manager.shutdown(wait=False)

    return Engine(model, optimizer, met=manager.current_step, together=True, close=close)
