"""Exchange methods, one file each; importing this package registers them all."""

from gossip.methods.base import METHODS, Exchange
from gossip.methods.downpour import Downpour
from gossip.methods.easgd import EASGD
from gossip.methods.fully_sync import FullySync
from gossip.methods.gosgd import GoSGD
from gossip.methods.matrix import MatrixExchange
from gossip.methods.none import NoExchange
from gossip.methods.persyn import PerSyn

__all__ = ["EASGD", "METHODS", "Downpour", "Exchange", "FullySync", "GoSGD", "MatrixExchange", "NoExchange", "PerSyn"]
