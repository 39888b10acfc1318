"""`make bench`: Dispatcher measured against other queues on this machine, in one interleaved run.

    python -m benchmarks [--only NAME] [--rounds N] [--million] [--write]

`catalogue` lists the cases, `dispatcher_cases`, `peer_cases` and `processes` measure them, each in a child process of
its own (`child`) with a fresh database file. `report` makes tables, `targets` compares with what was aimed for.
Nothing here is part of the installed package.
"""
