"""What the doctor makes of what it was told: releases, heartbeats, timeouts, clocks and certificates that no test has at hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dispatcher.brokers.rabbitmq.version import ServerVersion, server_version
from dispatcher.model.topology import Topology
from dispatcher.ops.doctor.hosts import certificate_finding
from dispatcher.ops.doctor.release import heartbeat_finding, timeout_finding, version_finding
from dispatcher.ops.doctor.roundtrip import clock_finding
from dispatcher.ops.doctor.subject import Subject

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("version", "status", "says"),
    [
        ("3.8.9", "wrong", "time to live"),
        ("3.9.29", "wrong", "time to live"),
        ("3.10.0", "ok", "do not order by priority"),
        ("3.13.7", "ok", "do not order by priority"),
        ("4.0.1", "warning", "may lose messages"),
        ("4.0.6", "warning", "may lose messages"),
        ("4.0.7", "ok", "two levels"),
        ("4.2.0", "ok", "two levels"),
        ("4.3.0", "ok", "a hand-back is no death"),
        ("5.0.0", "ok", "a hand-back is no death"),
        ("", "warning", "no release of RabbitMQ that is known"),
    ],
)
def test_a_release(version: str, status: str, says: str) -> None:
    """Each release is judged by what it can do; a fault of one is told with the release that mends it."""
    finding = version_finding(server_version({"version": version}), f"Rabbit {version}")
    assert finding.status == status
    assert says in finding.text
    assert bool(finding.advice) is (status != "ok")
    assert finding.exit_code == (78 if status == "wrong" else 0)


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, "warning"), (1, "warning"), (5, "ok"), (15, "ok"), (60, "ok"), (61, "warning")]
)
def test_a_heartbeat(seconds: int, status: str) -> None:
    """None, very short and very long ones are warned of."""
    assert heartbeat_finding(seconds).status == status


def test_tasks_that_run_long() -> None:
    """Only where the release takes deliveries back; at most five are named."""
    timeouts: dict[str, float | None] = {"short": 1800.0, "long": 1800.5, **{f"endless{n}": None for n in range(5)}}
    subject = Subject("tasks:app", Topology("ex"), timeouts)
    told = timeout_finding(ServerVersion(3, 12, 0), subject)
    assert told.status == "warning"
    assert told.text.endswith("have: long, endless0, endless1, endless2, endless3 and 1 more")
    assert "policy" in told.advice
    assert "rabbitmq.conf" in timeout_finding(ServerVersion(3, 11, 0), subject).advice
    assert timeout_finding(ServerVersion(4, 3, 0), subject).status == "ok"
    assert timeout_finding(ServerVersion(3, 12, 0), Subject("t:a", Topology("ex"), {"short": 1.0})).status == "ok"
    assert timeout_finding(ServerVersion(3, 12, 0), None).status == "note"


@pytest.mark.parametrize(
    ("seconds", "status", "says"),
    [
        (0, "ok", "the same"),
        (2, "ok", "the same"),
        (-3, "ok", "the same"),
        (4, "warning", "4 s ahead of"),
        (3600, "warning", "3600 s ahead of"),
        (-60, "warning", "59 s behind"),
    ],
)
def test_a_clock(seconds: int, status: str, says: str) -> None:
    """Told in whole seconds, cut off: only what is off for certain is told."""
    finding = clock_finding(datetime.fromtimestamp(NOW + seconds, UTC), NOW, NOW)
    assert finding.status == status
    assert says in finding.text


def test_a_clock_that_was_not_told() -> None:
    """It is said that it cannot be told."""
    assert clock_finding(None, NOW, NOW).status == "note"


@pytest.mark.parametrize(
    ("until", "status"), [("May  2 12:00:00 2026 GMT", "warning"), ("May 23 12:00:00 2026 GMT", "ok")]
)
def test_a_certificate(until: str, status: str) -> None:
    """One that expires within three weeks is warned of."""
    finding = certificate_finding("host:5671", {"notAfter": until}, NOW)
    assert finding.status == status
    assert until in finding.text
