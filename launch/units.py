"""Figures with their units, as all commands print them. Imports nothing of this project."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes, with three digits and a decimal unit: `1.17 MB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * scale:  # what rounds to 1000 of a unit is 1 of the next
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"
