"""`server_version` and `features_of`: which release a broker says it is, and what that makes possible."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.brokers.rabbitmq.version import ServerVersion, features_of, server_version

UNKNOWN = ServerVersion(0, 0, 0)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"version": "3.10.8"}, (3, 10, 8)),
        ({"product": "RabbitMQ", "version": "4.3.6"}, (4, 3, 6)),
        ({"version": "4.1.0-rc.1"}, (4, 1, 0)),
        ({"version": "4.3.0+12.gabc"}, (4, 3, 0)),
        ({"version": "4.2"}, (4, 2, 0)),
        ({"version": "12.0.1"}, (12, 0, 1)),
        ({"product": "LavinMQ", "version": "4.3.0"}, UNKNOWN),
        ({"version": "%%VSN%%"}, UNKNOWN),
        ({"version": "v4.3.0"}, UNKNOWN),
        ({"version": ""}, UNKNOWN),
        ({"version": None}, UNKNOWN),
        ({"version": 43}, UNKNOWN),
        ({"version": "9" * 5000}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_the_version_that_a_broker_says(properties: dict[str, Any], expected: tuple[int, int, int]) -> None:
    """A candidate counts as its release; what cannot be read, and what is no RabbitMQ, is older than anything."""
    assert server_version(properties) == expected


@pytest.mark.parametrize(
    ("version", "priorities", "since_43"),
    [
        (UNKNOWN, "none", False),
        (ServerVersion(3, 10, 8), "none", False),
        (ServerVersion(3, 13, 7), "none", False),
        (ServerVersion(4, 0, 0), "two levels", False),
        (ServerVersion(4, 2, 9), "two levels", False),
        (ServerVersion(4, 3, 0), "strict", True),
        (ServerVersion(5, 0, 0), "strict", True),
    ],
)
def test_what_a_release_can_do(version: ServerVersion, priorities: str, since_43: bool) -> None:
    """Features come with a release and stay."""
    features = features_of(version)
    assert features.quorum_priorities == priorities
    assert features.consumer_timeout_argument is since_43
    assert features.version == version


def test_a_version_as_text() -> None:
    """As people write it, and a word where there is none."""
    assert (str(ServerVersion(3, 10, 8)), str(UNKNOWN)) == ("3.10.8", "unknown")
