"""`make bench-growth`: what a task costs as queues, workers, bodies and delays grow, on both brokers.

`catalogue` says what grows and in which steps, `cases` measures one step, `workers` and `tasks` run beside it; `results`
keeps and judges the figures, `page` and `charts` show them. Nothing here is part of the installed package.
"""
