"""The ledger test's stage on a RabbitMQ: a vhost, a proxy before it, and what is done to both.

What it does to a broker it does in its own vhost, but for `kill -9`: that takes a node of the test's own.
"""

from __future__ import annotations

import time
from pathlib import Path

from ledger_app import MAX_BACKOFF_SECONDS
from ledger_explain import Fault, Note, Sent
from rabbitmq_admin import AdminError, binary
from rabbitmq_node import PrivateNode
from tcp_proxy import TcpProxy

__all__ = ["RabbitGround", "read_notes", "read_sent"]

BACK_SECONDS = 10 * (MAX_BACKOFF_SECONDS + 5)
"""The deadline for all consumers to be back: ten times as long as it may take."""

POLL_SECONDS = 0.1
ASK_SECONDS = 30.0
SWALLOW_SECONDS = 0.5
"""Longer than a publisher rests after a batch: each sends something meanwhile."""

DEAD = ".dead"
EXCHANGE = "dispatcher"
UNBOUND = "threads"
"""The queue whose binding comes and goes, where that is the harm."""


class RabbitGround:
    """A vhost of `node`, which the processes reach through `proxy`; `own_url` does not. See `ledger_rig.Ground`.

    Harm: `cut`: every link is reset. `swallow`: the same, after what the processes sent for a while got no further.
    `unbind`: the binding of a queue is removed, and put back the next time. `calm`: none.
    """

    def __init__(self, folder: Path, node: PrivateNode, vhost: str, proxy: TcpProxy) -> None:
        self.own_url = node.url(vhost=vhost)
        self.url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/{vhost}"
        self.faults: list[Fault] = []
        self._folder = folder
        self._node = node
        self._vhost = vhost
        self._proxy = proxy
        self._kills_at: list[float] = []
        self._is_unbound = False
        self.waits_for_what_moves = True  # from one queue to the next: RabbitMQ may offer it again minutes later only

    def kill_at(self, *shares: float) -> None:
        """Have the node killed (`kill -9`) and started again once these shares of the tasks are published."""
        self._kills_at = list(shares)

    def is_ready(self) -> bool:
        return True

    def held_by(self, pid: int) -> list[str]:
        return []  # it tells how many, not which: see `ledger_explain`

    def unfinished(self) -> int:
        return sum(sum(counts) for queue, counts in self._counts().items() if not queue.endswith(DEAD))

    def unsettled(self) -> int:
        """How many messages the broker counts as held by anyone."""
        return sum(unacked for _, unacked in self._counts().values())

    def _counts(self) -> dict[str, tuple[int, int]]:
        deadline = time.monotonic() + ASK_SECONDS
        while True:
            try:
                return self._node.admin.counts(self._vhost, in_transit=self.waits_for_what_moves)
            except AdminError:  # a queue without a leader: its node was started a moment ago
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def is_locked(self) -> bool:
        return False

    def state(self) -> str:
        full = {name: counts for name, counts in self._counts().items() if any(counts)}
        return f"{full}; {self._proxy.links} links, {self._proxy.cuts} cut"

    # --- harm ------------------------------------------------------------------------------------------------------

    def harm(self, what: str, progress: float) -> None:
        if self._kills_at and progress >= self._kills_at[0]:
            del self._kills_at[0]
            self._kill_broker()
        elif what == "cut":
            began = time.monotonic()
            self._proxy.cut()
            self.faults.append(Fault("cut", began, time.monotonic()))
        elif what == "swallow":
            began = time.monotonic()
            self._proxy.stall("to_broker")
            time.sleep(SWALLOW_SECONDS)
            self._proxy.cut()
            self._proxy.resume()
            self.faults.append(Fault("cut", began, time.monotonic()))
        elif what == "unbind":
            self._is_unbound = not self._is_unbound
            self._bind("remove" if self._is_unbound else "add")

    def heal(self) -> None:
        if self._is_unbound:
            self._is_unbound = False
            self._bind("add")

    def _kill_broker(self) -> None:
        """Kill it, start it, and leave everybody alone until all are back: so that it can be told how long that took."""
        began = time.monotonic()
        self._node.kill()
        killed = time.monotonic()
        self._node.start()
        healed = time.monotonic()
        self.faults.append(Fault("broker_kill", began, healed))
        while True:
            consuming = [note for note in read_notes(self._folder) if note.what == "consuming"]
            everybody = {(note.pid, note.which) for note in consuming}
            missing = everybody - {(note.pid, note.which) for note in consuming if note.at > killed}
            if not missing:
                return
            assert time.monotonic() < healed + BACK_SECONDS, f"{missing} not back {BACK_SECONDS:g} s after the broker"
            time.sleep(POLL_SECONDS)

    def _bind(self, verb: str) -> None:
        """Through the node: the processes' links are not used."""
        vhost = binary(self._vhost)
        self._node.eval(
            f"rabbit_binding:{verb}({{binding, rabbit_misc:r({vhost}, exchange, {binary(EXCHANGE)}), "
            f"{binary(UNBOUND)}, rabbit_misc:r({vhost}, queue, {binary(UNBOUND)}), []}}, <<>>)"
        )


def read_notes(folder: Path) -> list[Note]:
    """What the processes noted of their sessions, in whole lines."""
    lines = [line for path in sorted(folder.glob("sessions-*.ledger")) for line in path.read_text().split("\n")[:-1]]
    return [_note(*line.split(" ", 6)) for line in lines]


def _note(what: str, pid: str, session: str, at: str, which: str = "", attempt: str = "0", text: str = "") -> Note:
    return Note(what, int(pid), int(session), float(at), which, int(attempt), text)


def read_sent(folder: Path) -> list[Sent]:
    """Every publish that a publisher noted, in whole lines."""
    found: list[Sent] = []
    for path in sorted(folder.glob("publisher-*.ledger")):
        pid = int(path.stem.rpartition("-")[2])
        words = [line.split() for line in path.read_text().split("\n")[:-1]]
        returned = {uuid: float(at) for what, uuid, at in words if what == "accepted"}
        found += [
            Sent(uuid, pid, float(at), returned.get(uuid, float("inf")))
            for what, uuid, at in words
            if what == "attempt"
        ]
    return found
