"""`gosgd doctor`: what this machine is, whether two processes of it can exchange weights, and what is broken.

Imports launch.doctor_checks. What is printed names no user, no host and no secret.
"""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

from launch.doctor_checks import Finding, everything
from launch.errors import DONE, FAILED

_WIDTH = 20


def run(timeout_s: float, as_json: bool) -> int:
    """Print the findings.

    Args:
        timeout_s: for the exchange of two processes.
        as_json: as JSON instead of text.

    Returns:
        The exit code: 1 if something is broken.
    """
    findings = [_anonymous(one) for one in everything(timeout_s)]
    broken = [one for one in findings if one.broken]
    if as_json:
        print(json.dumps({"in_order": not broken, "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        print(text(findings))
    return FAILED if broken else DONE


def text(findings: Iterable[Finding]) -> str:
    """The findings for a bug report."""
    findings = list(findings)
    lines = []
    for section, ones in groupby(findings, lambda one: one.section):
        lines.append(section)
        for one in ones:
            lines.append(f"{'!' if one.broken else ' '} {one.name:<{_WIDTH}} {one.value}".rstrip())
            if one.advice:
                lines.append(f"  {'':<{_WIDTH}} -> {one.advice}")
        lines.append("")
    broken = [f"{one.section}: {one.name}" for one in findings if one.broken]
    return "\n".join([*lines, f"broken: {', '.join(broken)}" if broken else "everything is in order"])


def _anonymous(one: Finding) -> Finding:
    return replace(one, value=anonymous(one.value), advice=anonymous(one.advice))


def anonymous(said: str) -> str:
    """`said` without the names of user and host, and with ~ for the home directory."""
    for name, stands_in in ((_home(), "~"), (_user(), "USER"), (socket.gethostname(), "HOST")):
        if name not in ("", "/", "root", "localhost"):
            said = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", stands_in, said)
    return said


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:  # a container's user without a home
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
