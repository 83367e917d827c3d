"""The benchmarks between hosts run at a tiny size; the page on scaling holds what its script computes."""

import json

import pytest
from support.hosts import why_no_network

from benchmarks import hosts, scaling, wires
from benchmarks.scaling_model import FULL, Net, Rates, cost, most_rho, slowest
from gossip.methods.fully_sync import FullySyncConfig
from gossip.methods.gosgd import GoSGDConfig
from gossip.methods.persyn import PerSynConfig

pytestmark = pytest.mark.timeout(240)
NET = Net("a", 1e9, 1e-3)
RATES = Rates(1e-9, 2e-9)


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_network()), reason=why_no_network())
def test_hosts_times_every_variant_and_every_method_gets_there_over_a_slow_link(tmp_path, capsys):
    hosts.main(["--quick", "--longest", "1", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    assert list(found["cost"]["variants"]) == hosts.VARIANTS
    assert all(one > 0 for lists in found["cost"]["variants"].values() for row in lists["step_s"] for one in row)
    assert list(found["race"]["methods"]) == list(hosts.METHODS)
    said = capsys.readouterr().out
    assert "DDP over gloo" in said and "gossip bfloat16, rho=0.4" in said and "round trips of 20 ms" in said


@pytest.mark.slow
def test_every_wire_is_compared_with_float32_by_seed(tmp_path, capsys):
    wires.main(["--quick", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [*found["pairs"][0]] == ["float32", "bfloat16"]
    assert "bfloat16 less float32" in capsys.readouterr().out


def test_the_page_on_scaling_holds_what_the_script_computes():
    page = scaling.PAGE.read_text()
    assert all(f"<!-- {name} -->" in page for name in scaling.TABLES)
    assert scaling.filled(page) == page, "python -m benchmarks.scaling --page"


def test_gossip_costs_the_same_among_many_and_meeting_costs_more():
    few, many = (cost(GoSGDConfig(rho=0.1), workers, 1e8, 0.2, NET, RATES) for workers in (10, 100_000))
    assert few == many
    assert few.over(0.2) == pytest.approx(1 + 0.1 * 1e8 * 1e-9 / 0.2)
    few, many = (cost(FullySyncConfig(), workers, 1e8, 0.2, NET, RATES) for workers in (10, 100_000))
    assert few.wait_s < many.wait_s
    seldom = cost(PerSynConfig(tau=10), 10, 1e8, 0.2, NET, RATES)
    assert few.wait_s / 10 < seldom.wait_s < few.wait_s


def test_the_largest_rho_loads_the_link_as_much_as_is_allowed():
    rho = most_rho(1e8, 0.02, NET, RATES)
    assert 0 < rho < 1
    assert cost(GoSGDConfig(rho=rho), 10, 1e8, 0.02, NET, RATES).load == pytest.approx(FULL)
    assert most_rho(1e3, 0.02, NET, RATES) == 1


def test_the_slowest_of_many_is_later():
    assert 0 < slowest(2) < slowest(1_000) < slowest(1_000_000) < 0.05 * 5
    assert slowest(1_000, 4) == pytest.approx(2 * slowest(1_000))
