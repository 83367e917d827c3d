"""Completion scripts for shells, made by shtab from the parser of `gosgd`. Imports launch.keys.

The scripts are complete in themselves: no Python runs while somebody types.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import shtab

from configs import recipes
from launch.keys import paths

_BASH = """\
_gosgd_configs() {
  compgen -W "$_gosgd_recipes" -- "$1"
  compgen -f -X '!*.yaml' -- "$1"
  compgen -d -- "$1"
}
_gosgd_keys() {
  compgen -W "$_gosgd_paths" -- "$1"
}
_gosgd_resume() {
  compgen -W "auto never" -- "$1"
  compgen -d -- "$1"
}
_gosgd_names() {
  compgen -W "$_gosgd_recipes" -- "$1"
}
"""
_BASH_END = """

_gosgd() {
  _shtab_gosgd "$@"
  [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2> /dev/null
  return 0
}
complete -o bashdefault -F _gosgd gosgd
"""
_ZSH = """\
_gosgd_configs() {
  compadd -- ${=_gosgd_recipes}
  _files -g '*.yaml'
}
_gosgd_keys() {
  compadd -S '' -- ${=_gosgd_paths}
}
_gosgd_resume() {
  compadd -- auto never
  _files -/
}
_gosgd_names() {
  compadd -- ${=_gosgd_recipes}
}
"""
_FISH = """\
function _gosgd_configs
  string split ' ' -- $_gosgd_recipes
  __fish_complete_suffix .yaml
end
function _gosgd_keys
  string split ' ' -- $_gosgd_paths
end
function _gosgd_resume
  printf '%s\\n' auto never
  __fish_complete_directories
end
function _gosgd_names
  string split ' ' -- $_gosgd_recipes
end
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of `gosgd`.

    Args:
        parser: of the whole command line; how each argument is completed is noted in it.
        shell: bash, zsh or fish.
    """
    for action in _actions(parser):
        complete = _by_metavar(action)
        if complete is not None:
            action.complete = complete  # type: ignore[attr-defined]
    names, keys = " ".join(recipes()), " ".join(f"{path}=" for path in paths())
    setting = "set -g {} '{}'" if shell == "fish" else "{}='{}'"
    words = [setting.format("_gosgd_recipes", names), setting.format("_gosgd_paths", keys)]
    functions = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    preamble: Any = {shell: "\n".join([*words, functions])}  # shtab takes one for each shell, too
    made = str(shtab.complete(parser, shell, preamble=preamble))
    return made + (_BASH_END if shell == "bash" else "")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _by_metavar(action: argparse.Action) -> dict[str, Any] | None:
    """How to complete an argument, from the name that `--help` shows for its value."""
    name = action.metavar if isinstance(action.metavar, str) else ""
    if name.startswith("FILE"):
        return dict(shtab.FILE)
    if name in ("DIR", "RUN_DIR"):
        return dict(shtab.DIRECTORY)
    function = {"CONFIG": "configs", "key=value": "keys", "auto|never|DIR": "resume", "RECIPE": "names"}.get(name)
    if function is None:
        return None
    return {"bash": f"_gosgd_{function}", "zsh": f"_gosgd_{function}", "fish": f"(_gosgd_{function})"}
