"""Errors of every kind as exit codes, and as text that cannot forge a line."""

from __future__ import annotations

import pytest

from dispatcher import errors
from dispatcher.ops.failures import CliError, as_cli_error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 78),
        (errors.AuthenticationError("x"), 78),
        (errors.TopologyMismatch("x"), 78),
        (errors.TopologyMissing("x"), 78),
        (errors.StorageCorrupt("x"), 74),
        (errors.StorageFull("x"), 74),
        (errors.ConnectionLost("x"), 69),
        (errors.BrokerUnavailable("x"), 69),
        (errors.Unroutable("x"), 69),
        (errors.PublishManyError([], [("t", ValueError("x"))]), 69),
        (errors.ArgumentError("x"), 2),
        (errors.DeliveryLost("x"), 70),
    ],
)
def test_each_error_has_its_exit_code(error: errors.DispatcherError, code: int) -> None:
    """DESIGN section 8."""
    assert as_cli_error(error).exit_code == code


def test_text_from_outside_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A message that carries line ends or escape sequences must not write lines or drive the terminal."""
    CliError("bad\nname \x1b[2J", "hint\rme", detail=["a\nb"]).show()
    text = capsys.readouterr().err
    assert text.count("\n") == 3 and "\x1b" not in text and "\r" not in text
    assert text.startswith("dispatcher: error: bad\\nname")
