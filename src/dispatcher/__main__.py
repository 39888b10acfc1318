"""`python -m dispatcher`: the command line without the script; the supervisor starts its children this way. Holds no logic."""

from __future__ import annotations

from .ops.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
