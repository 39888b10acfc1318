"""The arithmetic of `make bench`: medians, ratios, verdicts and the page they are written to. Nothing is measured here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.amqp import message as amqp_message
from benchmarks.catalogue import CASES, GROUPS
from benchmarks.report import BEGIN, END, markdown, write
from benchmarks.results import Results
from benchmarks.samples import Sample, percentile
from benchmarks.targets import verdicts

PUBLISH = next(group for group in GROUPS if group.name == "publish")
DRAIN = next(group for group in GROUPS if group.name == "drain")
C_SOURCE = Path(__file__).parents[2] / "benchmarks" / "amqp" / "peer.c"


def rates(**by_case: list[float]) -> Results:
    """Results with these rates, one a round; `_` in a name stands for the slash or a hyphen."""
    results = Results()
    groups = [group.name for group in GROUPS]
    for name, values in by_case.items():
        name = name.replace("_", "-")
        group = next((group for group in groups if name.startswith(group + "-")), name)
        for number, rate in enumerate(values, 1):
            results.add(
                f"{group}/{name[len(group) + 1 :]}",
                number,
                Sample(1000, 1000 / rate, 0.02, figures={"resident_mb": 30.0}),
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
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} == {group.name for group in GROUPS}


def test_a_missed_target_is_shown_as_missed(tmp_path: Path) -> None:
    """In the table of targets, and the case in its own table."""
    report = markdown(rates(publish_dispatcher=[1000], publish_huey_fsync=[3000]), "make bench", tmp_path, 1)
    assert "| publish one by one, against huey with fsync | ≥ 0.77x | 0.33x | **missed** |" in report
    assert "| Dispatcher | fsync a commit | 1,000 | 0.20 | 0.33 |" in report


def test_a_client_is_held_to_each_of_its_targets() -> None:
    """The ratio to a peer is taken within its round, the CPU time is for 100,000 messages."""
    results = rates(amqp_publish_dispatcher=[3000, 300], amqp_publish_aio_pika=[1000, 100], amqp_publish_pika=[1000])
    found = {verdict.what: (verdict.got, verdict.met) for verdict in verdicts(results)}
    assert found == {
        "AMQP client, publish, against aio-pika": ("3.0x", False),
        "AMQP client, publish, against pika": ("3.0x", True),
        "AMQP client, publish, CPU for 100k messages": ("2.00 s", False),
    }


def test_the_broker_has_a_column_where_its_time_is_known(tmp_path: Path) -> None:
    """Where it runs on another machine, the table has none."""
    results = Results()
    results.add("amqp-publish/pika", 1, Sample(1000, 1.0, 0.02, 0.05))
    report = markdown(results, "make bench", tmp_path, 1, "3.10.8")
    assert ", RabbitMQ 3.10.8; " in report
    assert "| | messages/s | CPU s per 100k | broker CPU s per 100k | times aio-pika, same round |" in report
    assert "| pika | 1,000 | 2.00 | 5.00 |  |" in report
    assert "\n- pika: `SelectConnection`" in report
    unknown = markdown(rates(amqp_publish_pika=[1000]), "make bench", tmp_path, 1)
    assert "| | messages/s | CPU s per 100k | times aio-pika, same round |" in unknown


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    """In its row, among rates as among figures; it gets no verdict."""
    results = rates(amqp_publish_pika=[1000])
    results.unmet = {"amqp-publish/librabbitmq": "no C compiler", "latency/rabbitmq": "no broker"}
    report = markdown(results, "make bench", tmp_path, 1)
    assert "| librabbitmq (C) | not measured: no C compiler |  |  |" in report
    assert "| Dispatcher on RabbitMQ, 200 tasks/s | not measured: no broker |" in report
    assert "against librabbitmq" not in report


def test_the_c_client_sends_the_same_message() -> None:
    """Body and settings are written twice, in Python and in C, and are equal."""
    source = C_SOURCE.read_text()
    body = re.search(r'BODY\[\] =\s*"(.*)";', source)
    assert body is not None
    assert body[1].replace('\\"', '"').encode() == amqp_message.BODY
    assert f"{{{len(amqp_message.BODY)}, (void *)BODY}}" in source
    for name in ("WINDOW", "PREFETCH", "ACK_EVERY"):
        assert f"{name} = {getattr(amqp_message, name)}," in source
    for key, value in amqp_message.HEADERS.items():
        text = f'amqp_cstring_bytes("{value}")' if isinstance(value, str) else f"i32 = {value}"
        assert re.search(rf'"{key}"\).*{re.escape(text)}', source), key


def test_a_message_that_is_not_ours_is_an_error() -> None:
    """A client that decoded nothing, or another's message, does not count."""
    read = (amqp_message.CONTENT_TYPE, amqp_message.message_id(7), 2, amqp_message.HEADERS, amqp_message.BODY)
    assert amqp_message.attempt(*read) == 1
    for place, wrong in ((0, None), (1, "7"), (2, 1), (4, b"")):
        with pytest.raises(RuntimeError, match="benchmark's own"):
            amqp_message.attempt(*read[:place], wrong, *read[place + 1 :])  # type: ignore[arg-type]


def test_confirms_are_counted_one_by_one_and_up_to_a_number() -> None:
    """Whatever order the broker answers in; a refused publish ends the measurement."""
    unconfirmed = amqp_message.Unconfirmed()
    for _ in range(5):
        unconfirmed.add()
    unconfirmed.acked(4, False)
    assert len(unconfirmed) == 4
    unconfirmed.acked(3, True)
    assert len(unconfirmed) == 1
    unconfirmed.acked(5, True)
    assert len(unconfirmed) == 0
    with pytest.raises(RuntimeError, match="a nack"):
        unconfirmed.nacked(6, False)


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
