"""Every engine, one row each. Imports nothing of ours."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One engine.

    Attributes:
        name: on the command line and in the JSON.
        described: in tables.
        module: in `benchmarks.peers.engines`.
        variant: which of the module's engines.
        package: what to install and try to import, `distribution==version` and module; empty for what is here anyway.
        served: whether a server runs beside the workers.
    """

    name: str
    described: str
    module: str
    variant: str = ""
    package: tuple[str, str] | None = None
    served: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is a method of this project."""
        return self.module == "ours"


ENGINES = [
    Row("none", "none (no exchange)", "ours", "none"),
    Row("gosgd", "gosgd, rho = 0.1", "ours", "gosgd"),
    Row("persyn", "persyn, tau = 10", "ours", "persyn"),
    Row("fully_sync", "fully_sync", "ours", "fully_sync"),
    Row("ddp", "torch DDP", "torch_itself", "ddp"),
    Row("averager", "torch PeriodicModelAverager 10", "torch_itself", "averager"),
    Row("post_local", "torch PostLocalSGDOptimizer 10", "torch_itself", "post_local"),
    Row("decent_dp", "decent-dp 0.2.3, each step", "decent", package=("decent-dp==0.2.3", "decent_dp.ddp")),
    Row("torchft", "torchft 0.2.0 LocalSGD 10", "torchft_local", package=("torchft==0.2.0", "torchft"), served=True),
    Row("hivemind", "hivemind 1.1.12, local updates", "hivemind_local", package=("hivemind==1.1.12", "hivemind")),
]
BY_NAME = {row.name: row for row in ENGINES}
