"""What `make bench-growth` and the soaks make of their figures: steps, verdicts, pages. Nothing is measured here."""

from __future__ import annotations

import ast
import fcntl
import os
import threading
from pathlib import Path

import msgspec
import pytest
from benchmarks.footprint import Footprint, file_mb, footprint
from benchmarks.growth import page as growth_page
from benchmarks.growth.catalogue import SWEEPS, Place, cases
from benchmarks.growth.results import Growth, Measured, Step, verdicts
from benchmarks.marks import MARK_EVERY, Crowd, Marks
from benchmarks.samples import Sample
from benchmarks.soak import results as soak_results
from benchmarks.soak.results import Reading, Soak, drift

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WAITING = next(sweep for sweep in SWEEPS if sweep.name == "waiting")


def measured(name: str, steps: list[Step]) -> Measured:
    return Measured(name, "make bench-growth", "2026-01-01", "a machine", steps)


def waited(place: Place, step: int, *drain_us: float) -> Step:
    """A step of the sweep `waiting`, with a cost for each round."""
    return Step(place, step, [{"publish_cpu_us": 10.0, "drain_cpu_us": cost} for cost in drain_us])


def test_every_sweep_is_measured_by_a_function_that_exists() -> None:
    """It is found by its name in another process: a slip would show only there."""
    tree = ast.parse((BENCHMARKS / "growth" / "cases.py").read_text())
    taken = {
        node.name: {argument.arg for argument in node.args.args}
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    for sweep in SWEEPS:
        for _, _, case in cases(sweep, quick=False):
            assert set(case.options) == taken[case.does.partition(":")[2]], case.name


def test_names_of_cases_are_their_own() -> None:
    """A name is a folder and a queue; the quick steps have the same."""
    for quick in (False, True):
        names = [case.name for sweep in SWEEPS for _, _, case in cases(sweep, quick=quick)]
        assert len(set(names)) == len(names)


def test_a_step_that_is_asked_for_comes_last() -> None:
    """A million delayed tasks on RabbitMQ take a quarter of an hour: only who asks for them gets them."""
    delayed = next(sweep for sweep in SWEEPS if sweep.name == "delayed")
    usual = [(place, step) for place, step, _ in cases(delayed, quick=False)]
    asked = [(place, step) for place, step, _ in cases(delayed, quick=False, more=[("rabbitmq", 1_000_000)])]
    assert asked == [*usual, ("rabbitmq", 1_000_000)]


def test_bodies_are_bounded_by_their_volume() -> None:
    """A thousand times the size is not a thousand times the bytes."""
    bodies = next(sweep for sweep in SWEEPS if sweep.name == "bodies")
    assert bodies.volume is not None
    for _, size, case in cases(bodies, quick=False):
        assert size * case.options["count"] <= bodies.volume


def test_growth_is_judged_within_a_round() -> None:
    """A round in which the whole machine was slow does not make a cost grow."""
    growth = Growth([measured("waiting", [waited("sqlite", 1000, 20, 60, 20), waited("sqlite", 10**6, 24, 72, 24)])])
    found = {verdict.what.rpartition(": ")[2]: verdict for verdict in verdicts(growth)}
    assert found["drain, CPU"].times == pytest.approx(1.2)
    assert found["drain, CPU"].is_flat
    assert found["publish, CPU"].times == 1.0


def test_what_is_measured_once_is_held_against_all_rounds() -> None:
    """The first round of the near end may have been a lucky one."""
    growth = Growth([measured("waiting", [waited("sqlite", 1000, 20, 30, 31), waited("sqlite", 10**6, 33)])])
    found = {verdict.what.rpartition(": ")[2]: verdict for verdict in verdicts(growth)}
    assert found["drain, CPU"].times == pytest.approx(1.1)
    assert found["drain, CPU"].near == 30


def test_a_cost_that_grows_is_shown_as_growing() -> None:
    """In the table of what stays flat; each broker is judged by itself."""
    steps = [waited("sqlite", 1000, 20), waited("sqlite", 10**6, 30), waited("rabbitmq", 1000, 20)]
    page = growth_page.markdown(Growth([measured("waiting", steps)]))
    assert (
        f"| {WAITING.title}: drain, CPU | SQLite | 1,000 to 1,000,000 tasks waiting | 20 | 30 | 1.50 | **grows** |"
        in page
    )
    assert (
        f"| {WAITING.title}: publish, CPU | SQLite | 1,000 to 1,000,000 tasks waiting | 10 | 10 | 1.00 | flat |" in page
    )
    assert "| RabbitMQ | 1,000 to" not in page


def test_two_figures_of_one_step_are_compared() -> None:
    """The memory of a worker at the end with that after a tenth."""
    growth = Growth([measured("memory", [Step("sqlite", 10**6, [{"early_mb": 25.0, "late_mb": 50.0}])])])
    (verdict,) = verdicts(growth)
    assert (verdict.near, verdict.far, verdict.is_flat) == (25.0, 50.0, False)


def test_what_cannot_be_measured_says_why() -> None:
    """In its row; nothing is judged by it."""
    steps = [waited("rabbitmq", 1000, 20), Step("rabbitmq", 10**6, unmet="no broker")]
    growth = Growth([measured("waiting", steps)])
    assert "| RabbitMQ | 1,000,000 | not measured: no broker |  |" in growth_page.markdown(growth)
    assert list(verdicts(growth)) == []


def test_what_was_measured_before_stays_until_it_is_measured_again() -> None:
    """In the order of the catalogue, whatever was measured last."""
    before = Growth([measured("waiting", [waited("sqlite", 1000, 20)]), measured("memory", [])])
    again = measured("waiting", [waited("sqlite", 1000, 30)])
    assert [each.name for each in before.put([measured("queues", []), again]).sweeps] == ["waiting", "queues", "memory"]
    assert before.put([again]).sweep("waiting") == again


def test_charts_are_named_on_the_page_once_they_are_drawn() -> None:
    """A page without them shows no broken picture."""
    growth = Growth([measured("waiting", [waited("sqlite", 1000, 20)])])
    assert f"![{WAITING.title}](performance/growth-waiting.svg)" in growth_page.markdown(growth, "performance")
    assert "![" not in growth_page.markdown(growth)


def test_a_sample_that_was_read_over_time_keeps_its_series() -> None:
    """Rounds add up; the series is the last one's."""
    step = Step("sqlite", 1000)
    step.add(Sample(figures={"late_mb": 20.0}, series=[(1.0, 19.0), (2.0, 20.0)]))
    step.add(Sample(figures={"late_mb": 30.0}))
    assert step.series == [(1.0, 19.0), (2.0, 20.0)]
    assert msgspec.json.decode(msgspec.json.encode(step), type=Step) == step


def test_processes_begin_together_and_their_tasks_are_counted(tmp_path: Path) -> None:
    """Nobody passes the gate before it is open; then every mark stands for so many tasks."""
    ran = 3 * MARK_EVERY
    with Crowd.gathering(tmp_path) as crowd:
        marks = Marks(tmp_path)
        thread = threading.Thread(target=lambda: [marks.tick() for _ in range(ran)])
        thread.start()
        with (tmp_path / "gate").open() as gate, pytest.raises(BlockingIOError):
            fcntl.flock(gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        crowd.open_gate(after=1)
        assert crowd.wait_for(ran) == ran
        thread.join()
        marks.close()
        with pytest.raises(RuntimeError, match="expected 4"):
            crowd.wait_for(ran + MARK_EVERY, deadline_seconds=0)


@pytest.mark.parametrize(("last_mb", "steady"), [(40.0, True), (44.0, False)])
def test_growth_after_the_warm_up_is_found(last_mb: float, steady: bool) -> None:
    """What a worker takes in its first minutes is not growth; what it takes after them is."""
    warm = [20.0, 38.0]
    later = [40.0 + (last_mb - 40.0) * minute / 10 for minute in range(11)]
    readings = [reading(number * 60.0, mb) for number, mb in enumerate(warm + later)]
    found = drift(readings, lambda each: each.worker.rss_mb)
    assert found is not None
    assert found.is_steady is steady
    assert found.hourly == pytest.approx((last_mb - 40.0) * 6)
    assert drift(readings[:1], lambda each: each.worker.rss_mb) is None


def test_a_soak_says_whether_it_was_cut_short() -> None:
    """A run that did not end proves nothing about the last task."""
    soak = Soak("sqlite", 1, 200, "2026-01-01", "a machine", [reading(60.0 * n, 40.0) for n in range(12)])
    assert "**cut short**" in soak_results.markdown([soak])
    soak.ran_all = True
    page = soak_results.markdown([soak])
    assert "for 11 minutes, and every one ran. a machine" in page
    assert "| SQLite | worker, resident memory, MB | 40.0 | 40.0 | +0.00 | steady |" in page


def test_the_footprint_of_a_process_is_read_whole(tmp_path: Path) -> None:
    """This process has memory, files and threads; a file that is not there has no size."""
    found = footprint(os.getpid())
    assert found.rss_mb >= found.pss_mb > 1
    assert found.files >= 3
    assert found.threads >= 1
    assert file_mb(tmp_path / "none") == 0.0


def reading(at_seconds: float, worker_mb: float) -> Reading:
    worker = Footprint(rss_mb=worker_mb, pss_mb=worker_mb, files=10, threads=4)
    return Reading(at_seconds, worker, Footprint(rss_mb=30.0, pss_mb=20.0, files=7, threads=2), 0.1, 3.0)
