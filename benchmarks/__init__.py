"""`make bench`: Dispatcher measured against other queues on this machine, in one interleaved run.

    python -m benchmarks [--only NAME] [--rounds N] [--write]

`catalogue` lists the cases, `surroundings` finds what they need. `dispatcher_cases`, `peer_cases` and `processes` measure
task queues, `amqp` AMQP clients; each case runs in a child process of its own (`child`) with a
fresh database file or queue. `report` makes tables, `targets` compares with what was aimed for. Nothing here is part of
the installed package.
"""
