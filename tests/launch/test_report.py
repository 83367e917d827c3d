"""`gosgd report`: a page from real runs that loads nothing, and looks like one in a browser where there is one."""

import base64
import io
import json
import shutil
import subprocess
import time
from html.parser import HTMLParser

import pytest
import yaml
from support.commands import main

from launch.report_read import differences, flat, lines, read_all

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A gossip run, and a copy of it that says it was PerSyn's and that a worker was killed."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("runs")
    exchange = "exchange={method: gosgd, rho: 0.5}"
    size = ["--workers", "2", "train={steps: 60}", "run={log_every: 10, eval_every: 20, tensorboard: false}"]
    assert (
        main(["train", "digits", exchange, *size, "model={name: mlp, hidden: [16]}", f"run.dir={folder}/gossip"]) == 0
    )
    other = folder / "persyn<&>$^$"
    shutil.copytree(folder / "gossip", other)
    config = yaml.safe_load((other / "config.resolved.yaml").read_text())
    config["exchange"] = {"method": "persyn", "tau": 10}
    (other / "config.resolved.yaml").write_text(yaml.safe_dump(config))
    began = lines(other / "workers/0/metrics.jsonl")[0]["time"]
    events = [
        {"time": began + 0.1, "event": "failure", "worker": 1, "attempt": 0, "signal": 9},
        {"time": began + 0.2, "event": "restart", "worker": 1, "attempt": 1},
    ]
    (other / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"torn')
    return folder / "gossip", other


class Page(HTMLParser):
    """What a page is made of; fails on a tag that is closed out of turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.loads, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(given["src"])
        self.loads += [given[name] for name in ("href", "src", "action") if name in given]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_one_run_becomes_a_page_of_its_own_with_pictures_beside_it(finished, capsys):
    run, _ = finished
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{run}/report.html (and ")
    text = (run / "report.html").read_text()
    page = Page(text)
    assert len(page.images) >= 6
    assert page.loads == page.images, "nothing else is loaded"
    for source in page.images:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    names = {"consensus-model", "training", "consensus-error", "mass", "staleness", "pace"}
    assert {path.stem.removeprefix("report-") for path in run.glob("report-*.png")} == names
    assert "default-src 'none'" in text
    assert "<script" not in text
    summary = json.loads((run / "final/summary.json").read_text())
    assert f"{summary['accuracy']:.2%}" in page.text


def test_several_runs_are_compared_key_by_key_and_faults_are_shown(finished, tmp_path):
    assert main(["report", *map(str, finished), "--out", str(tmp_path / "both.html")]) == 0
    page = Page((tmp_path / "both.html").read_text())
    said = " ".join(page.text)
    assert "gossip and persyn<&>$^$" in said
    assert "exchange.tau" in said
    assert "signal 9" in said
    assert (tmp_path / "both-faults.png").exists()


def test_only_keys_that_differ_are_listed(finished):
    found = differences(read_all(finished))
    assert found["exchange.method"] == ["gosgd", "persyn"]
    assert found["exchange.tau"] == ["-", 10]
    assert not [key for key in found if not key.startswith("exchange.")]
    assert flat({"a": {"b": 1}, "c": [{"name": "x"}], "d": [1, 2]}) == {"a.b": 1, "c.0.name": "x", "d": [1, 2]}


def test_a_run_that_has_not_ended_is_reported_with_what_is_there(finished, tmp_path):
    going = tmp_path / "going"
    shutil.copytree(finished[0], going, ignore=shutil.ignore_patterns("final", "report*", "metrics.jsonl"))
    told = lines(finished[0] / "workers/0/metrics.jsonl")[:1]
    (going / "workers/0/metrics.jsonl").write_text(json.dumps(told[0]) + '\n{"step": 20, "ti')
    assert main(["report", str(going)]) == 0
    assert "going (not ended)" in (going / "report.html").read_text()


def test_a_run_of_one_line_a_worker_shows_it_as_a_point(finished, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from launch.report_figures import pictures

    shutil.copytree(finished[0], tmp_path / "short")
    for told in (tmp_path / "short/workers").glob("*/metrics.jsonl"):
        told.write_text(told.read_text().splitlines(keepends=True)[0])
    drawn = {
        picture.name: pyplot.imread(io.BytesIO(picture.png)) for picture in pictures(read_all([tmp_path / "short"]))
    }
    plotted = drawn["pace"][:, 100 : drawn["pace"].shape[1] * 4 // 5, :3]  # left of the legend
    assert (plotted.max(2) - plotted.min(2) > 0.3).sum() > 5, "coloured points"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}"], "without config.resolved.yaml, expected a run directory"),
        (["{run}", "{run}"], "the same RUN_DIR twice"),
        (["{run}", "--out", "{empty}/page.pdf"], "expected a name that ends in .html"),
        (["{run}", "--out", "{empty}/no/page.html"], "whose folder does not exist"),
    ],
)
def test_mistakes_are_told_in_a_line(finished, tmp_path, capsys, arguments, said):
    given = [word.format(run=finished[0], empty=tmp_path) for word in arguments]
    assert main(["report", *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; html.parser has read the page")
def test_the_page_is_drawn_by_a_browser(finished, tmp_path):
    from matplotlib import image

    page = tmp_path / "page.html"
    assert main(["report", *map(str, finished), "--out", str(page)]) == 0
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,3000"]
    command = [BROWSER, *options, f"--user-data-dir={tmp_path}/profile", f"--screenshot={shot}", f"file://{page}"]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    seen = image.imread(shot)[..., :3]
    ground = seen[2, 2]
    cards = (abs(seen - 1.0).max(2) < 0.01).mean()
    assert abs(ground - [0xF4 / 255, 0xF6 / 255, 0xF8 / 255]).max() < 0.02, "the style sheet is applied"
    assert 0.4 < cards < 0.97, "white cards with pictures on them"
    coloured = (seen.max(2) - seen.min(2) > 0.4).sum()
    assert coloured > 2000, "curves are to be seen"


def test_lines_are_read_in_the_order_of_time_and_damaged_ones_left_out(tmp_path):
    now = time.time()
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"time": {now}, "step": 2}}\n[1]\n{{"step": 3}}\n{{"time": {now - 1}, "step": 1}}\n{{"time"')
    assert [line["step"] for line in lines(path)] == [1, 2]
    assert lines(tmp_path / "none") == []
