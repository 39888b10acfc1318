"""The arithmetic of `make bench-peers`: what meters say, which targets are met, and the page. Nothing is measured here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from benchmarks.peers import golang
from benchmarks.peers.catalogue import PEERS, peer_of
from benchmarks.peers.environments import tail
from benchmarks.peers.meter import SLOT, SLOTS, Meter, Readings
from benchmarks.peers.report import BEGIN, Survey, data, markdown
from benchmarks.peers.setups import SETUPS
from benchmarks.peers.targets import verdicts
from benchmarks.results import Results
from benchmarks.samples import Sample

APPS = Path(golang.__file__).parent / "apps"
PAGE = Path(__file__).parents[2] / "docs" / "performance-peers.md"


def rates(by_name: Mapping[str, list[float]], cpu_seconds: float = 0.02) -> Results:
    """Results with these rates, one a round; each took the same CPU time for 1,000 tasks."""
    results = Results()
    for name, values in by_name.items():
        for number, rate in enumerate(values, 1):
            results.add(name, number, Sample(1000, 1000 / rate, cpu_seconds))
    return results


def survey(results: Results, failures: dict[str, list[str]] | None = None) -> Survey:
    return Survey(
        results=results,
        command="make bench-peers",
        rounds=1,
        machine="2 cores",
        versions={"celery": {"celery": "5.7.0"}},
        failures=failures or {},
    )


def test_a_meter_is_read_while_tasks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task counts from its start; where its end is asked for, from its end."""
    monkeypatch.setenv("BENCH_METER", str(tmp_path))
    meter, readings = Meter(), Readings(tmp_path)
    assert readings.count() == 0
    first = meter.begin(sent_ns=7)
    second = meter.begin()
    assert readings.count() == 2
    begun_ns = readings.since(0)[0][0]
    assert readings.since(0)[0] == (begun_ns, 0, 7)
    assert readings.count(ended=True) == 0
    meter.end(second)
    meter.end(first)
    assert readings.count(ended=True) == 2
    assert all(end >= start for start, end, _ in readings.since(0))
    assert readings.since(readings.since(0)[-1][0] + 1) == []
    readings.close()


def test_go_writes_the_same_slots() -> None:
    """Their size, their number and the waiting of a task are written twice, in Python and in Go, and are equal."""
    source = (golang.SOURCE / "main.go").read_text()
    constants = dict(re.findall(r"(\w+)\s+= (\d+)", source))
    assert int(constants["slotBytes"]) == SLOT.size
    assert int(constants["slotCount"]) == SLOTS


def test_setups_have_names_of_their_own_and_apps_that_exist() -> None:
    """Two of one name would overwrite each other's samples."""
    keys = [setup.key for setup in SETUPS]
    assert len(set(keys)) == len(keys)
    assert {setup.peer for setup in SETUPS} == {peer.name for peer in PEERS}
    for setup in SETUPS:
        app = peer_of(setup).app
        assert not app or (APPS / f"{app}.py").exists()
        assert setup.note, setup.key


def test_a_peer_counts_with_its_best_setting() -> None:
    """Ratios are taken within a round, so a slow round changes nothing; the verdict names the setting."""
    results = rates(
        {"drain/dispatcher": [30_000, 300], "drain/celery-solo": [5000, 50], "drain/celery-prefork": [2000, 20]}
    )
    found = {verdict.what: (verdict.got, verdict.met) for verdict in verdicts(results)}
    assert found["drain, coroutines, against celery (celery-solo)"] == ("6.0x", True)
    assert not any("dramatiq" in what for what in found)


def test_cpu_is_held_against_the_thriftiest_peer_in_python() -> None:
    """The Go package is not one, and neither are our own other rows."""
    results = rates({"drain/celery-solo": [5000], "drain/taskiq-1w": [4000]}, cpu_seconds=0.2)
    results.add("drain/rq", 1, Sample(1000, 1.0, 0.15))
    results.add("drain/go", 1, Sample(1000, 1.0, 0.01))
    results.add("drain/dispatcher-sqlite", 1, Sample(1000, 1.0, 0.01))
    results.add("drain/dispatcher", 1, Sample(1000, 0.5, 0.02))
    found = {verdict.what: (verdict.got, verdict.met) for verdict in verdicts(results)}
    assert found["worker CPU for a task, coroutines, of the thriftiest peer (rq)"] == ("7.5x", False)
    assert found["drain, coroutines, against the Go package (go)"] == ("2.0x", True)


def test_the_other_targets_are_decided_too() -> None:
    """Publishing, and tasks that wait; what was not measured gets no verdict."""
    results = rates({"in-flight/dispatcher": [9000], "in-flight/taskiq-1w": [5000], "io/taskiq": [4000]})
    results.add("io/dispatcher", 1, Sample(9000, 1.0, 0.1, figures={"share_percent": 89.0}))
    found = {verdict.what: (verdict.wanted, verdict.got, verdict.met) for verdict in verdicts(results)}
    assert found == {
        "publish with 100 in flight, against taskiq (taskiq-1w)": ("≥ 2.0x", "1.8x", False),
        "50 ms tasks, 500 at once, against taskiq (taskiq)": ("≥ 2.0x", "2.2x", True),
        "50 ms tasks, 500 at once, share of what is possible": ("≥ 90 %", "89 %", False),
    }


def test_what_failed_and_what_was_not_measured_say_so() -> None:
    """In their row, with the settings below and the peers that were not asked for left out."""
    results = rates({"drain/celery-solo": [5000]})
    results.unmet = {"work/go": "not measured: no Go toolchain"}
    report = markdown(survey(results, {"work/celery-solo": ["round 2: its worker ended"]}))
    assert "| Celery, solo | 5,000 | 0.20 |" in report
    assert re.search(r"\| The Go package, limit 500 \| not measured: no Go toolchain \| +\|", report)
    assert "- work/celery-solo: round 2: its worker ended" in report
    assert "- Celery: celery 5.7.0" in report
    assert "- **Celery**: " in report
    assert "**Dramatiq**" not in report


def test_the_data_holds_every_sample() -> None:
    """By what was measured and by round, so that others can make their own figures of it."""
    content = msgspec.json.decode(data(survey(rates({"drain/celery-solo": [5000, 4000]}))))
    assert content["samples"]["drain/celery-solo"]["2"]["seconds"] == 0.25
    assert content["versions"] == {"celery": {"celery": "5.7.0"}}


def test_the_last_words_of_a_program_fit_a_cell() -> None:
    """One line, without what would end the cell."""
    assert tail("first\n\n  boom | bang \n\n") == "boom / bang"
    assert tail("") == "it said nothing"


def test_the_page_has_a_place_for_the_report() -> None:
    """Else a long run would end with an error."""
    assert BEGIN in PAGE.read_text()
