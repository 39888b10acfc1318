"""How each peer's worker is started, without the options that a setup adds. Data only."""

from __future__ import annotations

from .catalogue import AT_ONCE

__all__ = [
    "APPS",
    "CELERY",
    "DRAMATIQ",
    "DRAMATIQ_MANY",
    "DRAMATIQ_QUEUES",
    "FASTSTREAM",
    "HUEY",
    "HUEY_POLLS",
    "MANY",
    "OURS",
    "PLAIN",
    "RQ_OPTIONS",
    "TASKIQ",
    "TASKIQ_QUEUES",
]

APPS = "benchmarks.peers.apps"
OURS = ("{python}", "-m", "dispatcher", "worker", f"{APPS}.dispatcher_app:app")
CELERY = (
    *("{bin}/celery", "-A", f"{APPS}.celery_app", "worker", "-Q", "{queue}"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)
DRAMATIQ = ("{bin}/dramatiq", f"{APPS}.dramatiq_app")
DRAMATIQ_QUEUES = ("{queue}.DQ", "{queue}.XQ")
TASKIQ = ("{bin}/taskiq", "worker", f"{APPS}.taskiq_app:broker", "--log-level", "WARNING", "--no-parse")
FASTSTREAM = ("{bin}/faststream", "run", f"{APPS}.faststream_app:app")
HUEY = ("{bin}/huey_consumer", f"{APPS}.huey_app.huey", "-q", "-n")
HUEY_POLLS = ("-d", "0.002", "-m", "0.002")
RQ_OPTIONS = ("-u", "{url}", "--quiet")

MANY = {"BENCH_PREFETCH": str(AT_ONCE), "BENCH_LIMIT": str(AT_ONCE)}
PLAIN = {"BENCH_PLAIN": "1"}
DRAMATIQ_MANY = {"dramatiq_queue_prefetch": str(AT_ONCE)}
TASKIQ_QUEUES = ("{queue}.dead_letter",)
