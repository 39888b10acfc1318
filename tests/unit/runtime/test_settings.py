"""What `Dispatcher` tells type checkers that it takes is what it takes."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from dispatcher import ConfigError, Dispatcher, ServerConfig
from dispatcher.runtime.settings import ServerSettings

THE_APPS_OWN = {"url", "exchange", "default_routing_key"}


def test_the_settings_are_the_fields_of_a_server_config() -> None:
    """Every field with its type, but the three that the app has in a form of its own; and nothing else."""
    fields = {
        name: hint for name, hint in get_type_hints(ServerConfig).items() if name in ServerConfig.__struct_fields__
    }
    assert get_type_hints(ServerSettings) == {name: fields[name] for name in fields.keys() - THE_APPS_OWN}


@pytest.mark.parametrize("name", [*sorted(THE_APPS_OWN - {"url", "exchange"}), "middlewares"])
def test_another_setting_is_refused(name: str) -> None:
    """With the names of those there are."""
    with pytest.raises(ConfigError, match=f"'{name}' is not one of its settings; it takes .*'middleware'"):
        Dispatcher("memory://", **{name: "x"})  # type: ignore[arg-type]
