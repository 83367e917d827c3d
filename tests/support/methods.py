"""The exchange methods that contracts are tried with: one row a method, of its name and options."""

import pytest

OPTIONS = {
    "none": {},
    "fully_sync": {},
    "persyn": {"tau": 3},
    "gosgd": {"rho": 0.5},
    "easgd": {"tau": 3},
    "easgd_async": {"tau": 3, "mode": "async"},
    "downpour": {"n_fetch": 3, "n_push": 2},
    "downpour_sharded": {"n_fetch": 3, "n_push": 2, "server": "sharded"},
}
EVERY = pytest.mark.parametrize("method", OPTIONS)

CENTRAL = [method for method in OPTIONS if method.startswith(("easgd", "downpour"))]
"""Those that keep a central variable: it is what they end with, see test_central.py."""


def name_of(row: str) -> str:
    """The method a row is about."""
    return row.partition("_")[0] if row in CENTRAL else row
