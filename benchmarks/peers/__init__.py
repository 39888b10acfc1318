"""`make bench-peers`: Dispatcher and other task queues doing the same work on this machine, each in its best setting.

    python -m benchmarks.peers [--only NAME] [--rounds N] [--write]

`catalogue` says who takes part and with which settings. `environments` makes a virtual environment for each, `services`
starts Redis and finds RabbitMQ, `measure` runs one setting through every measurement, `report` and `targets` make the page.
`meter`, `sender` and the modules in `apps` run inside the environment of a peer: they need that peer and the standard
library, nothing else. Nothing here is part of the installed package.
"""
