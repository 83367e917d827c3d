"""`gosgd report`: what runs did, as one page that needs nothing else. Imports launch.report_read, configs.files.

The page loads nothing: pictures are inside, there is no script, and its content policy forbids both.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.errors import DONE
from launch.report_read import Told, differences, read_all

if TYPE_CHECKING:
    from launch.report_figures import Picture

_CSS = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --ground: #f4f6f8; --mark: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial,
  sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 8px; }
p { margin: 0 0 12px; color: var(--soft); }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px; margin: 20px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; } td.number, th.number { text-align: right; }
tr:last-child td { border-bottom: 0; }
code, td.key { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
img { display: block; width: 100%; height: auto; }
summary { cursor: pointer; color: var(--mark); }
footer { color: var(--soft); font-size: 13px; }
"""
_COLUMNS = (
    ("workers", "workers", "d"),
    ("steps", "steps a worker", ",d"),
    ("accuracy", "accuracy", ".2%"),
    ("loss", "loss", ".4f"),
    ("samples_per_second", "samples/s", ",.0f"),
    ("seconds", "seconds", ",.1f"),
    ("consensus_error", "consensus error", ".3g"),
    ("mass_lost", "mass lost", ".4g"),
)
_EVENTS_SHOWN = 200


def run(paths: Sequence[Path], out: Path | None) -> int:
    """Write the page and its pictures; print where they are.

    Raises:
        ValueError: a directory is none of a run, the page cannot be written, or matplotlib is missing.
    """
    runs = read_all(paths)
    page = paths[0] / "report.html" if out is None else out
    if page.suffix != ".html":
        raise ValueError(f"--out: got {page}, expected a name that ends in .html")
    if not page.parent.is_dir():
        raise ValueError(f"--out: got {page}, whose folder does not exist; make it first")
    try:
        from launch.report_figures import pictures
    except ImportError:
        raise ValueError("a report needs matplotlib: pip install 'gosgd[plots]'") from None
    made = list(pictures(runs))
    try:
        for picture in made:
            page.with_name(f"{page.stem}-{picture.name}.png").write_bytes(picture.png)
        page.write_text(render(runs, made), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--out: got {page}, which cannot be written: {error.strerror}") from None
    print(f"{page} (and {len(made)} pictures beside it)")
    return DONE


def render(runs: Sequence[Told], made: Iterable[Picture]) -> str:
    """The page.

    Args:
        runs: in the order of the page.
        made: its pictures.
    """
    title = " and ".join([", ".join(one.name for one in runs[:-1]), runs[-1].name] if runs[1:] else [runs[0].name])
    parts = [
        f"<h1>{_text(title)}</h1><p>{_text(_first_line(runs))}</p>",
        _section("Final model", "", _final(runs)),
        _differences(runs),
        *(_section(one.title, one.text, _image(one)) for one in made),
        _events(runs),
        *(_details(one) for one in runs),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        " style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_CSS}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>gosgd {_text(_version(runs))}; time counts from the first step of each run.</footer>\n"
        "</main></body></html>\n"
    )


def _first_line(runs: Sequence[Told]) -> str:
    def one(run: Told) -> str:
        what = f"{run.config.get('model.name')} on {run.config.get('data.name')}"
        return f"{run.method} with {run.environment.get('workers', len(run.workers))} workers, {what}"

    return "; ".join(dict.fromkeys(map(one, runs)))


def _version(runs: Sequence[Told]) -> str:
    return ", ".join(dict.fromkeys(str(run.environment.get("packages", {}).get("gosgd", "?")) for run in runs))


def _section(title: str, text: str, body: str) -> str:
    said = f"<p>{_text(text)}</p>" if text else ""
    return f"<section><h2>{_text(title)}</h2>{said}{body}</section>"


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return f'<img alt="{_text(picture.title)}" src="data:image/png;base64,{data}">'


def _final(runs: Sequence[Told]) -> str:
    head = ["run", "method", *(title for _, title, _ in _COLUMNS), "failures"]
    rows = []
    for run in runs:
        # Who writes the summary knows its own time only, and may have been started again.
        summary = _latest(run) | (run.summary or {}) | {"seconds": run.elapsed, "samples_per_second": run.pace}
        cells = [_figure(summary.get(key), form) for key, _, form in _COLUMNS]
        failures = sum(event["event"] == "failure" for event in run.events)
        state = "" if run.summary else " (not ended)"
        state = " (interrupted)" if summary.get("interrupted") else state
        state = " (diverged)" if summary.get("diverged") else state
        rows.append([run.name + state, run.method, *cells, str(failures)])
    return _table(head, rows, numbers=2)


def _latest(run: Told) -> dict[str, Any]:
    """What is known of a run that has not come to its end."""
    newest = run.evaluations[-1] if run.evaluations else {}
    return {
        "workers": run.environment.get("workers"),
        "steps": max(told[-1]["step"] for told in run.workers.values()),
        "accuracy": newest.get("test_accuracy"),
        "loss": newest.get("test_loss"),
        "consensus_error": newest.get("consensus_error"),
        "mass_lost": (newest.get("ledger") or {}).get("lost"),
    }


def _differences(runs: Sequence[Told]) -> str:
    if len(runs) == 1:
        return ""
    found = differences(runs)
    if not found:
        return _section("Configuration", "All keys have the same values in these runs.", "")
    rows = [[key, *map(_value, values)] for key, values in found.items()]
    table = _table(["key", *(run.name for run in runs)], rows, key=True)
    return _section("What differs in the configuration", "A - stands for a key that the run does not have.", table)


def _events(runs: Sequence[Told]) -> str:
    rows = []
    for run in runs:
        for event in run.events:
            who = f"worker {event['worker']}" if "worker" in event else "server"
            cause = f"signal {event['signal']}" if "signal" in event else ""
            cause = f"exit code {event['exit_code']}" if "exit_code" in event else cause
            when = f"{event['time'] - run.began:.1f}"
            rows.append([run.name, when, who, event["event"].replace("_", " "), cause, str(event.get("attempt", ""))])
    if not rows:
        return ""
    more = f" The first {_EVENTS_SHOWN} of {len(rows)}." if len(rows) > _EVENTS_SHOWN else ""
    head = ["run", "seconds", "who", "event", "cause", "restart number"]
    return _section(
        "Events", f"From events.jsonl: what the launcher saw and did.{more}", _table(head, rows[:_EVENTS_SHOWN])
    )


def _details(run: Told) -> str:
    config = _table(["key", "value"], [[key, _value(value)] for key, value in run.config.items()], key=True)
    known = {key: value for key, value in run.environment.items() if key not in ("command", "packages")}
    known |= run.environment.get("packages", {})
    environment = _table(["", ""], [[key, _value(value)] for key, value in known.items()], key=True)
    return (
        f"<section><h2>{_text(run.name)}</h2><details><summary>configuration with every default</summary>{config}"
        f"</details><details><summary>environment</summary>{environment}</details></section>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int | None = None, key: bool = False) -> str:
    """Cells from column `numbers` on are set to the right; with `key` the first column is."""

    def style(column: int) -> str:
        if numbers is not None and column >= numbers:
            return ' class="number"'
        return ' class="key"' if key else ""

    titles = "".join(f"<th{style(column) if numbers else ''}>{_text(one)}</th>" for column, one in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(f"<td{style(column)}>{_text(cell)}</td>" for column, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def _figure(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
