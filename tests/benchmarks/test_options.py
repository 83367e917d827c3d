"""What is wrong on a benchmark's command line is told in one or two lines, before anything is measured."""

import argparse
import json
import re
from pathlib import Path

import pytest

from benchmarks import (
    accuracy,
    exchange,
    faults,
    gpu_curves,
    maxmin,
    options,
    small_sample,
    stopped_workers,
    tables,
)
from benchmarks.peers import __main__ as peers
from benchmarks.thesis import __main__ as thesis

WRONG = [
    (peers, "--page none.json", "none.json, which cannot be read"),
    (peers, "--page folder", "folder, which cannot be read"),
    (peers, "--page other.json", "expected a JSON of this benchmark"),
    (peers, "--page some.json", "expected a JSON of this benchmark"),
    (peers, "--engines gosgdd", "expected some of none,gosgd,.*did you mean 'gosgd'"),
    (peers, "--json none/out.json", "expected a file in a folder that exists"),
    (peers, "--json folder", "expected a file in a folder that exists"),
    (thesis, "figure_9", "got recipe 'figure_9', expected one of figure_2_1"),
    (thesis, "figure_2_3 --scale big", "got 'big', expected one of smoke, cpu, paper"),
    (thesis, "figure_2_3 --out some.json", "expected a folder that can be made"),
    (thesis, "figure_2_3 --pages .", "expected a folder without JSON but that of this command"),
    (exchange, "--workers 2,x", "got 'x', expected a whole number of 2 or more"),
    (faults, "--step 0", "got '0', expected a number above 0"),
    (stopped_workers, "--workers 3 --stopped 2", "expected two or more to be left"),
    (tables, "--results some.json", "expected runs that this benchmark wrote"),
    (maxmin, "--data-root none", "cifar10: found no data_batch_1.*\nget .* and name their folder with --data-root$"),
    (small_sample, "--data-root none --backgrounds none", "mnist: found no train-images.*\n.* with --data-root$"),
    (accuracy, "--sets mnist --data-root none", "mnist: found no train-images.*\n.* with --data-root$"),
    (gpu_curves, "some.json none.jsonl", "none.jsonl, which cannot be read"),
]


@pytest.mark.parametrize(
    ("benchmark", "words", "why"), WRONG, ids=[f"{one.__name__} {words}" for one, words, _ in WRONG]
)
def test_a_mistake_is_told_in_a_line_or_two(benchmark, words, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("other.json").write_text("not JSON")
    Path("some.json").write_text(json.dumps({"results": {"runs": {"plain": {}}}}))
    with pytest.raises(SystemExit) as ended:
        benchmark.main(words.split())
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert not said.out or "CPUs" in said.out
    assert said.err.count("\n") <= 2 and re.search(why, said.err), said.err


@pytest.mark.parametrize("text", ["1.5", "", "x", "0", "-3"])
def test_counts_are_whole_and_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of 1 or more"):
        options.COUNT(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "x"])
def test_numbers_are_finite(text):
    for check in (options.above_zero, options.at_least_zero):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number"):
            check(text)
