"""Keeps the generated parts of this folder current: configuration.md, tables of options, matrices.

python -m docs.generate            writes them
python -m docs.generate --check    names the files that are not current; exit code 1 if there are any

In a page, what stands between `<!-- options: exchange gosgd -->` (section, name) or `<!-- matrix: gosgd rho=0.1 -->`
(a method and its options, drawn for four workers) and the next `<!-- end -->` is generated from the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from configs.base import Registry
from gossip.methods import METHODS
from gossip.methods.base import MethodConfig
from gossip.portrait import portrait
from launch.explain import drawing
from launch.keys import Key, about, keys
from regularizers import REGULARIZERS
from trainers.data import DATA
from trainers.data.custom import CustomOptions
from trainers.models import MODELS
from trainers.optimizers import OPTIMIZERS
from trainers.schedules import SCHEDULES
from trainers.schema import Run, RunOptions, Train

HERE = Path(__file__).parent
WORKERS = 4
REGISTRIES: dict[str, Registry[Any]] = {
    "data": DATA,
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "exchange": METHODS,
    "regularizers": REGULARIZERS,
}
OWN = {
    "data": """\
`data.name: package.module:name` is a `Dataset`, a `DataLoader`, a pair (train, test) of either, or a function or
class that returns one of these: [an example](own.md#data). 8-bit samples are divided by 255, others are taken as
they are. The keys below are looked after by the trainer; a function gets those of them that it has a parameter
for, and every other key.""",
    "model": """\
`model.name: package.module:name` is a class or function that returns an `nn.Module`: [an example](own.md#a-model).
It is called with every other key, and with `shape`, that of one sample, and `classes`, if it has parameters of
these names. None of the keys above is known.""",
    "optimizer": """\
`optimizer.name: package.module:name` is a class or function that returns a `torch.optim.Optimizer`: [an
example](own.md#an-optimizer). It is called with the parameters and every other key. None of the keys above is
known; the learning rate is the one it begins with, without a schedule.""",
    "optimizer.schedule": """\
`optimizer.schedule.name: package.module:name` is a function that is called with `step`, `total_steps` and every
other key, and returns the factor on the learning rate.""",
    "exchange": """\
`exchange.method: package.module:Class` is a subclass of `gossip.Exchange`: [contributing](contributing.md) says
how one is written. Its keys are those of its own options. A function suffices to say whom `gosgd` sends to
([`exchange.peers`](own.md#whom-to-send-to)), or to give every step its matrix ([`matrix`](methods/matrix.md)).""",
    "regularizers": """\
`regularizers[].name: package.module:Class` is a subclass of `regularizers.Regularizer`:
[contributing](contributing.md) says how one is written. Its keys are those of its own options.""",
}
"""What a component of the user's own is, and what it is given."""
_BLOCK = re.compile(r"(<!-- (options|matrix): ([^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
_INTRODUCTION = """\
# Configuration

Generated from the schema by `python -m docs.generate`; not to be edited by hand.

A job is one YAML file, or a recipe (`gosgd recipes list`), with `key=value` behind it on the command line to replace
single values: `exchange.rho=0.1`, `optimizer.schedule.name=cosine`, `regularizers='[{name: shade}]'`. Values are YAML.
With another component, as in `exchange.method=easgd`, options of the file that only the former one knows are left out.
Where a section names a component (`data.name`, `model.name`, `optimizer.name`, `exchange.method`,
`regularizers[].name`), the section's other keys are that component's; `package.module:name` in its place takes one of
your own ([examples](own.md)), to which every other key is handed. `a.b` is the key `b` of the section `a`. An unknown
key, or a value of the wrong kind, is refused with file, line, what was got and what was expected. `gosgd validate FILE`
checks a file, `gosgd train FILE --print-config` prints it with every default.
"""


def main(arguments: Sequence[str]) -> int:
    """Write, or check. Returns the exit code."""
    stale = [path for path, text in current() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(HERE.parent)} is not current; run python -m docs.generate")
        return int(bool(stale))
    for path, text in current():
        path.write_text(text)
    return 0


def current() -> Iterator[tuple[Path, str]]:
    """Every file with something generated in it, as it should be."""
    yield HERE / "configuration.md", configuration()
    for path in sorted(HERE.rglob("*.md")):
        text = path.read_text()
        if _BLOCK.search(text):
            yield path, _BLOCK.sub(lambda match: f"{match[1]}{_made(match[2], match[3])}{match[4]}", text)


def _made(kind: str, words: str) -> str:
    if kind == "options":
        section, name = words.split()
        return f"\n{table(keys(REGISTRIES[section].config(name)))}\n\n"
    method, *options = words.split()
    given = {name: yaml.safe_load(value) for name, _, value in (option.partition("=") for option in options)}
    drawn = portrait(cast(MethodConfig, METHODS.config(method).of(**given)), WORKERS)
    lines = "\n".join(drawing(drawn.exchange))
    return f"\nK of {drawn.event}, four workers:\n\n```text\n{lines}\n```\n\n"


def configuration() -> str:
    """The whole reference."""
    top = [key for key in keys(Run) if key.name == "seed"]
    parts = [_INTRODUCTION, "## Top level\n\n" + table([*_named(), *top])]
    for section, registry in REGISTRIES.items():
        parts.append(f"## {section}\n\n{_section(section, registry)}")
    parts += [
        f"## train\n\n{about(Train)}\n\n{table(keys(Train))}",
        f"## run\n\n{about(RunOptions)}\n\n{table(keys(RunOptions))}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _named() -> list[Key]:
    meaning = "of the run; its directory is runs/NAME unless `run.dir` says otherwise"
    return [Key("name", "text of letters, digits, `_`, `.`, `-`", "", meaning)]


def _section(section: str, registry: Registry[Any]) -> str:
    tables = {name: keys(registry.config(name)) for name in registry.names()}
    common = [key for key in next(iter(tables.values())) if all(_has(key.name, other) for other in tables.values())]
    shared = [key for key in common if all(key in other for other in tables.values())]
    word = registry.key
    names = ", ".join(f"`{name}`" for name in tables)
    parts = [f"`{word}` is one of {names}, or `package.module:name`."]
    if shared:
        parts.append(f"Every {registry.kind} takes:\n\n{table(shared)}")
    for name, own in tables.items():
        rest = [key for key in own if key not in shared]
        parts.append(
            f"### {section}: {name}\n\n{about(registry.config(name))}" + (f"\n\n{table(rest)}" if rest else "")
        )
    parts.append(f"### {section}: your own\n\n{OWN[section]}")
    if section == "data":
        parts.append(table(keys(CustomOptions)))
    return "\n\n".join(parts)


def _has(name: str, others: Iterable[Key]) -> bool:
    return any(key.name == name for key in others)


def table(rows: Iterable[Key]) -> str:
    """Keys as Markdown."""
    lines = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for key in rows:
        default = f"`{key.default}`" if key.default else "required"
        cells = [f"`{key.name}`", default, key.kind, f"{key.meaning.rstrip('.')}." if key.meaning else ""]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
