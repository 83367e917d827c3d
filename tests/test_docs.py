"""README and docs: commands run, scaled down or dry; links lead somewhere; what is generated or listed is current."""

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.ports import free_port
from torch import nn

import gossip
from docs import generate, plots
from launch import cli, command_line

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BENCHMARKS, RESULTS = ROOT / "benchmarks/README.md", sorted((DOCS / "results").glob("*.md"))
PAGES = [ROOT / "README.md", BENCHMARKS, *sorted(page for page in DOCS.rglob("*.md") if page not in RESULTS)]
"""Results are written by the benchmarks, whose tests run their commands."""
REALLY_RUN = [DOCS / "own.md", DOCS / "methods/matrix.md", *(DOCS / "regularizers").glob("*.md")]
"""Pages on which `gosgd train` takes code of the reader's own, or losses that only a step shows to work."""

NOT_HERE = {
    r"make ": "builds an environment of its own; CI runs make test",
    r"pip install": "builds an environment of its own; make does it",
    r"kill \$\(cat ": "tests/launch/test_join.py takes a worker out of a running job",
    r"sbatch |kubectl |openssl .*kubectl": "needs a cluster",
    r"gosgd train .*--join": "needs a job that is running: tests/launch/test_join.py",
    r"gosgd train .*--detach": "outlives its command: tests/launch/test_detach.py",
    r"gosgd train .*--hosts .*--run": "starts torchrun on three hosts: tests/launch/test_hosts_option.py",
    r"gosgd chaos": "takes two runs: tests/launch/test_chaos.py",
    r"gosgd doctor": "tests/launch/test_doctor.py",
    r"torchrun --nnodes": "needs several hosts: tests/launch/test_train_hosts.py",
    r"torchrun .* -m launch.train": "tests/launch/test_train.py",
    r"(OUT=\S+ )?(ba)?sh benchmarks/|python -m benchmarks": "minutes to hours; tests/benchmarks run them scaled down",
}
"""Commands that are not run by this module, with the reason."""

SCALED = {
    r"gosgd train .*--hosts": [],
    r"gosgd train": ["--dry-run"],
    r"gosgd consensus": ["--dim", "20", "--steps", "50", "--repeats", "2", "--workers", "3"],
    r"gosgd analyze": ["--samples", "50", "--steps", "5"],
    r"python -m docs.generate": ["--check"],
}
"""What is added to commands; the first that fits counts."""
FEW_STEPS = ["train.steps=20", "train.epochs=null", "--workers", "2"]
"""What `gosgd train` gets on pages of REALLY_RUN, in place of what SCALED says."""


def blocks(page, *languages):
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S)
    return [body for language, body in found if language in languages]


def commands(page):
    """Lines of the page's shell blocks, continued ones joined; blocks that show files are no commands."""
    for block in blocks(page, "", "sh"):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if line.strip() and not line.lstrip().startswith("#") and not block.startswith("runs/"):
                yield line


def prose(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


EVERY = {line: page for page in PAGES for line in commands(page)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a reader has it: the finished run `runs/digits`, copies under the names pages use, files of pages."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
            patch.delenv(name, raising=False)
        small = ["train={steps: 60}", "run={log_every: 10, eval_every: 20}", "model={name: mlp, hidden: [16]}"]
        more = ["exchange={method: gosgd, rho: 0.3, trace: updates}", "regularizers=[{name: shade}]"]
        assert cli.main(["train", "digits", "--workers", "2", *small, *more]) == 0
        for name in ("traced", "seldom", "persyn"):
            shutil.copytree("runs/digits", f"runs/{name}")
        shutil.copyfile(ROOT / "configs/digits.yaml", "job.yaml")
        for page in PAGES:
            for block in blocks(page, "python"):
                if (name := re.match(r"# (\w+\.py)\n", block)) is not None:
                    Path(name[1]).write_text(block)
        yield folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GOSGD_JOB"):
        monkeypatch.delenv(name, raising=False)
    return place


def fitting(table, line):
    return next((table[pattern] for pattern in table if re.match(pattern, line)), None)


@pytest.mark.timeout(400)  # 40 s of work, the run it starts from included; a busy machine makes them minutes
def test_commands_run(here, capsys, monkeypatch):
    monkeypatch.setattr(plots, "HERE", here / "plots")
    ran = trained = 0
    for line, page in EVERY.items():
        if fitting(NOT_HERE, line):
            continue
        words = shlex.split(line, comments=True)
        trains = words[:2] == ["gosgd", "train"]
        really = trains and page in REALLY_RUN
        words += FEW_STEPS if really else fitting(SCALED, line) or []
        if really or "--dry-run" in words:
            words.append(f"run.dir=runs/new-{ran}")
        code = run(words)
        assert code == 0, f"{page.name}: {line}\n{capsys.readouterr().err}"
        if really:
            assert json.loads(Path(f"runs/new-{ran}/final/summary.json").read_text())["workers"] == 2, line
            trained += 1
        ran += 1
    assert ran > 35
    assert trained > 10


def run(words):
    """The exit code of a command; `gosgd` and our own modules run in this process."""
    match words:
        case ["gosgd", "train", "cifar10" | "mnist" | "fashion_mnist" as recipe, *rest]:  # whose data are not here
            return cli.main(["validate", recipe, *(word for word in rest if "=" in word)])
        case ["gosgd", *rest]:
            return cli.main([word for word in rest if word != "--real"])
        case ["python", "-m", "docs.generate", *rest]:
            return generate.main(rest)
        case ["python", "-m", "docs.plots", *rest]:
            return plots.main(rest) or 0
        case ["torchrun", *rest]:
            elastic = [sys.executable, "-m", "torch.distributed.run", "--standalone", *rest]
            path = {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(elastic, env=os.environ | path, capture_output=True, text=True, timeout=150)
            assert "consensus of 2 workers" in done.stdout, done.stderr
            return done.returncode
        case ["for", *_]:
            path = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            with free_port() as port:
                script = " ".join(words).replace("29500", str(port))
                done = subprocess.run(
                    ["sh", "-c", script], env=os.environ | path, capture_output=True, text=True, timeout=150
                )
            assert "consensus of 2 workers" in done.stdout, done.stderr
            return done.returncode
    raise AssertionError(f"no way to run {shlex.join(words)}: add it to NOT_HERE with the reason, or here")


def test_a_reason_is_given_for_commands_that_there_are():
    for pattern in NOT_HERE:
        assert any(re.match(pattern, line) for line in EVERY), f"{pattern}: no such command any more"


class Understood(Exception):  # noqa: N818 (nothing is wrong)
    """In place of what a benchmark would do after it has read its options."""


def test_commands_of_benchmarks_have_options_that_there_are(monkeypatch):
    def parse_args(parser, arguments):
        _, unknown = parser.parse_known_args(arguments)
        raise Understood(unknown)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    found = {}
    for page in [*PAGES, *RESULTS]:
        for module, words in re.findall(r"python -m (benchmarks[\w.]*)([^`\n#]*)", page.read_text()):
            found[module, words.strip()] = page
    for (module, words), page in found.items():
        there = importlib.import_module(module)
        whole = importlib.import_module(f"{module}.__main__") if hasattr(there, "__path__") else there
        assert callable(whole.main)
        if not words:  # a name in a sentence; the script may need options
            continue
        with pytest.raises(Understood) as understood:
            whole.main(shlex.split(re.sub(r"[][]", "", words)))
        assert understood.value.args == ([],), f"{page}: python -m {module} {words}"
    assert {module for module, _ in found} > {"benchmarks.exchange", "benchmarks.thesis", "benchmarks.peers"}
    for script in {name for page in PAGES for name in re.findall(r"\bbash (benchmarks/\S+\.sh)", page.read_text())}:
        assert subprocess.run(["bash", "-n", script], cwd=ROOT, timeout=20).returncode == 0, script


def test_commands_in_sentences_have_options_that_there_are():
    parsers = next(action for action in command_line.parser()._actions if action.dest == "command").choices
    found = 0
    for page in PAGES:
        for command in re.findall(r"`gosgd ([^`]+)`", prose(page)):
            name, *rest = command.split()
            if name.startswith("-"):
                continue
            assert name in parsers, f"{page.name}: gosgd {command}"
            help_text = parsers[name].format_help()
            for option in (word for word in rest if word.startswith("--")):
                assert option in help_text or option == "--help", f"{page.name}: gosgd {command}"
            found += 1
    assert found > 10


def anchors(page):
    """What links can end with, behind `#`: the page's headings as they are rendered."""
    return {
        re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in re.findall(r"^#+ (.*)$", prose(page), re.M)
    }


def test_links_lead_somewhere():
    for page in [*PAGES, *RESULTS]:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_generated_parts_are_current():
    stale = [path.name for path, text in generate.current() if not path.exists() or path.read_text() != text]
    assert stale == [], "run python -m docs.generate"


def test_every_key_of_the_configuration_is_explained():
    rows = [line.split(" | ") for line in generate.configuration().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row[0] for row in rows if len(row) < 4 or len(row[-1].strip(" |")) < 4] == []
    assert [row[:3] for row in rows if row[2] != row[2].lower()] == [], "a class's name in place of what it takes"
    assert not [row for row in rows for word in row if re.search(r"\b(gossip|trainers|launch)\.\w", word)]


def test_every_component_has_a_page():
    index = (ROOT / "docs/README.md").read_text()
    names = [f"methods/{name}.md" for name in generate.METHODS.names()]
    names += [f"regularizers/{name}.md" for name in generate.REGULARIZERS.names()]
    for name in names:
        page = (ROOT / "docs" / name).read_text()
        assert f"({name})" in index
        assert "<!-- options: " in page
        assert f"../plots/{Path(name).stem}.png" in page


def test_every_figure_of_a_run_is_explained(place):
    text = (ROOT / "docs/metrics.md").read_text()
    written = [place / "runs/digits/metrics.jsonl", *place.glob("runs/digits/workers/*/*.jsonl")]
    figures = [json.loads(path.read_text().splitlines()[-1]) for path in written]
    summary = json.loads((place / "runs/digits/final/summary.json").read_text())
    keys = {key for one in [*figures, *(line.get("exchange", {}) for line in figures), summary] for key in one}
    for method, options in {"persyn": {"tau": 2}, "easgd": {}, "matrix": {"schedule": "docs.plots:ring"}}.items():
        exchange = gossip.build(method, nn.Linear(2, 2), **options)
        keys |= set(exchange.stats())
        exchange.close()
    assert {key for key in keys if f"`{key}`" not in text} == set()


def subparsers(parser):
    """Every command below a parser, those of commands included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield inner
                yield from subparsers(inner)


def test_every_command_says_what_it_does_and_has_examples_in_its_help():
    found = {parser.prog: parser for parser in subparsers(command_line.parser())}
    assert {"gosgd train", "gosgd recipes list", "gosgd recipes copy", "gosgd launch slurm"} < set(found)
    for name, parser in found.items():
        assert re.search(r"^examples?:\n", parser.format_help(), re.M), name
        assert f"  {name}" in parser.epilog, name
        assert parser.description, name
