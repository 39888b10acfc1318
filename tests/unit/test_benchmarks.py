"""The arithmetic of `make bench`: medians, ratios, verdicts and the page they are written to. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.catalogue import CASES, GROUPS, MILLION
from benchmarks.report import BEGIN, END, markdown, write
from benchmarks.results import Results
from benchmarks.samples import Sample, percentile
from benchmarks.targets import verdicts

PUBLISH = next(group for group in GROUPS if group.name == "publish")
DRAIN = next(group for group in GROUPS if group.name == "drain")


def rates(**by_case: list[float]) -> Results:
    """Results with these rates, one a round; `_` in a name stands for the slash."""
    results = Results()
    for name, values in by_case.items():
        for number, rate in enumerate(values, 1):
            results.add(
                name.replace("_", "/", 1).replace("_", "-"),
                number,
                Sample(1000, 1000 / rate, 0.02, {"resident_mb": 30.0}),
            )
    return results


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """At least that share of the values is at or below it."""
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99)) == (50.0, 99.0)
    assert percentile([7.0], 99) == 7.0


def test_a_ratio_is_taken_within_its_round() -> None:
    """A round in which the whole machine was slow does not change it."""
    results = rates(publish_dispatcher=[3000, 300, 3000], publish_huey_fsync=[1500, 150, 1500])
    ratio = results.ratio("publish/dispatcher", PUBLISH)
    assert ratio is not None
    assert (ratio.least, ratio.median, ratio.most) == pytest.approx((2, 2, 2))


def test_the_best_setting_of_a_peer_counts() -> None:
    """Dispatcher is divided by the fastest of the settings that were tried."""
    results = rates(drain_dispatcher_coroutine_32=[50_000], drain_huey_1=[10_000], drain_huey_8=[5000])
    ratio = results.ratio("drain/dispatcher-coroutine-32", DRAIN)
    assert ratio is not None
    assert ratio.median == pytest.approx(5)


def test_verdicts_say_what_was_met_and_what_was_missed() -> None:
    """Each on its own side of its bound; what was not measured gets none."""
    found = {verdict.what: verdict.met for verdict in verdicts(rates(in_flight=[1.0]))}
    assert found == {}
    results = rates(
        drain_dispatcher_coroutine_32=[50_000], drain_dispatcher_function_32=[40_000], drain_huey_1=[10_000]
    )
    found = {verdict.what: verdict.met for verdict in verdicts(results)}
    assert found["drain, coroutine-32, against the best huey"] is True
    assert found["drain, function-32, against the best huey"] is False
    assert found["worker CPU for 10k no-op tasks, coroutine-32"] is True


def test_every_case_is_in_a_group_and_names_a_function_once() -> None:
    """A case whose table does not exist would be measured and never shown."""
    names = [case.name for case in (*CASES, MILLION)]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} == {group.name for group in GROUPS}


def test_a_missed_target_is_shown_as_missed(tmp_path: Path) -> None:
    """In the table of targets, and the case in its own table."""
    report = markdown(rates(publish_dispatcher=[1000], publish_huey_fsync=[3000]), "make bench", tmp_path, 1)
    assert "| publish one by one, against huey with fsync | ≥ 0.77x | 0.33x | **missed** |" in report
    assert "| Dispatcher | fsync a commit | 1,000 | 0.20 | 0.33 |" in report


def test_writing_replaces_the_last_report_only(tmp_path: Path) -> None:
    """What people wrote before and after it stays; a page without a place for it is an error."""
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write("new\n", page)
    write("newer\n", page)
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"
    page.write_text("no place\n")
    with pytest.raises(RuntimeError, match="expected the lines"):
        write("new\n", page)
    assert page.read_text() == "no place\n"
