"""How each method behaves in the simulator, as moves of gossip.moves in time; `virtual` makes it from its options."""

from __future__ import annotations

from gossip.methods.base import MethodConfig
from gossip.methods.downpour import DownpourConfig
from gossip.methods.easgd import EASGDConfig
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.matrix import MatrixConfig
from gossip.methods.none import NoneConfig
from gossip.methods.persyn import PerSynConfig
from gossip.peers import ADAPTIVE
from gossip.virtual.adaptive import AdaptiveGoSGD
from gossip.virtual.base import EASGD, FullySync, Matrix, PerSyn, Virtual
from gossip.virtual.central import AsyncEASGD, Downpour
from gossip.virtual.gossip import ConstantWeight, ConstantWeightConfig, GoSGD, Pairwise, PairwiseConfig

__all__ = ["ConstantWeightConfig", "PairwiseConfig", "Virtual", "virtual"]

_KINDS: dict[type[MethodConfig], type[Virtual]] = {
    NoneConfig: Virtual,
    FullySyncConfig: FullySync,
    PerSynConfig: PerSyn,
    DownpourConfig: Downpour,
    GoSGDConfig: GoSGD,
    MatrixConfig: Matrix,
    PairwiseConfig: Pairwise,
    ConstantWeightConfig: ConstantWeight,
}


def virtual(config: MethodConfig) -> type[Virtual]:
    """The class that simulates a configured method.

    Raises:
        ValueError: it is not one the simulator knows.
    """
    if isinstance(config, EASGDConfig):
        return EASGD if config.mode == "sync" else AsyncEASGD
    if isinstance(config, GoSGDConfig) and config.peers == ADAPTIVE:
        return AdaptiveGoSGD
    if type(config) not in _KINDS:
        known = sorted({"easgd", *(str(kind.model_fields["method"].default) for kind in _KINDS)})
        raise ValueError(f"got {getattr(config, 'method', config)!r}, expected one of {', '.join(known)}")
    return _KINDS[type(config)]
