"""`python -m benchmarks.soak`: a worker at a steady rate for an hour, and what it takes of the machine meanwhile.

`tasks` are what it runs, `results` keeps and judges the readings, `page` shows them. Nothing here is part of the
installed package.
"""
