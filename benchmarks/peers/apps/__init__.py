"""One module for each peer: its app as its documentation shows it, with four tasks: noop, timed, io and cpu.

Imported inside that peer's environment only. `$BENCH_URL` and `$BENCH_QUEUE` say where, the other variables are the settings
that `catalogue` tries.
"""
