"""`python -m benchmarks.child DOES OPTIONS`: one measurement, printed as one line of JSON. For `benchmarks` itself."""

from __future__ import annotations

import importlib
import logging
import sys

import msgspec

__all__: list[str] = []


def main(does: str, options: str) -> None:
    # What a program that publishes would have: Dispatcher's events at INFO.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    module, _, name = does.partition(":")
    measure = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    sample = measure(**msgspec.json.decode(options))
    print(msgspec.json.encode(sample).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
