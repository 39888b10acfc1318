"""Which deliveries of one channel are settled, and the fewest frames that tell the broker so.

Acks of one turn of the event loop are told together: one `multiple` ack for the contiguous run from the oldest
unsettled delivery on, and single acks for what was settled out of order. Only ever acking the contiguous run would let
one slow task hold back all others. The broker never hears of a tag that it did not give, or that it has heard of
before: it would close the channel and deliver all the others again.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import ProtocolError
from .frames import ack_frame, nack_frame

__all__ = ["AckWindow"]

IN_ORDER = 32
"""How many messages a quorum queue of RabbitMQ 3.10 puts back in their order, of those that one nack covers."""

MAX_BEYOND = 4096
"""Of so many settled tags above the oldest unsettled one those are kept that are not settled: the prefetch bounds them."""


class AckWindow:
    """The delivery tags of one channel, which count up from 1 (AMQP 0-9-1, section 1.8.3.13)."""

    __slots__ = ("_acks", "_beyond", "_channel", "_nacks", "_oldest", "_stragglers", "last")

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._stragglers: set[int] = (
            set()
        )  # unsettled tags below `_oldest`; while there are any no ack may cover others
        self._oldest = 1  # the lowest other tag that is not settled
        self._beyond: set[int] = set()  # settled tags above it
        self._acks: set[int] = set()
        self._nacks: set[int] = set()
        self.last = 0

    @property
    def unsettled(self) -> int:
        """How many deliveries the broker counts as unsettled once it has been told everything up to the last `take`."""
        return len(self._stragglers) + self.last - self._oldest + 1 - len(self._beyond)

    def count(self, tag: int) -> None:
        """Note a delivery. The broker numbers them one after the other: on that the watermark rests."""
        if tag != self.last + 1:
            raise ProtocolError(505, f"expected delivery {self.last + 1}, got {tag}")
        self.last = tag

    def ack(self, tag: int) -> bool:
        """Note an ack; True if it is the first since the last `take`.

        Nothing comes of a tag that is settled already, or was never delivered.
        """
        if tag > self.last:
            return False
        first = not self._acks and not self._nacks
        self._acks.add(tag)
        return first

    def nack(self, tag: int) -> bool:
        """Note a handing back; True if it is the first since the last `take`. It wins over an ack of the same turn."""
        if tag > self.last:
            return False
        first = not self._acks and not self._nacks
        self._nacks.add(tag)
        return first

    def take(self) -> Sequence[bytes]:
        """The frames that tell what was settled since the last call."""
        acks = self._acks
        if not self._nacks and not self._beyond and not self._stragglers and acks:
            last = max(acks)
            # So many different tags, none of them below the oldest, are the whole run from it to the last of them.
            if len(acks) == last - self._oldest + 1 and min(acks) == self._oldest:
                self._acks = set()
                self._oldest = last + 1
                return (ack_frame(self._channel, last, multiple=len(acks) > 1),)
        return self._take_out_of_order()

    def _take_out_of_order(self) -> Sequence[bytes]:
        nacks = self._settle(self._nacks)
        acks = self._settle(self._acks)
        self._nacks, self._acks = set(), set()
        self._advance()
        # Before any ack: the watermark below must not cover them.
        frames = [nack_frame(self._channel, tag, multiple=False) for tag in nacks]
        covered = 0
        if not self._stragglers:
            for tag in acks:
                if tag >= self._oldest:
                    break
                covered += 1
        if covered:
            frames.append(ack_frame(self._channel, acks[covered - 1], multiple=covered > 1))
        frames += [ack_frame(self._channel, tag, multiple=False) for tag in acks[covered:]]
        if len(self._beyond) > MAX_BEYOND:
            self._leave_stragglers_behind()
        return frames

    def _settle(self, tags: set[int]) -> list[int]:
        """Note as settled those of `tags` that the broker waits to hear of, and return them in their order."""
        late = self._stragglers & tags
        self._stragglers -= late
        beyond = {tag for tag in tags - self._beyond if tag >= self._oldest}
        self._beyond |= beyond
        return sorted(late | beyond)

    def _leave_stragglers_behind(self) -> None:
        """Move `_oldest` past what one slow task, or a few, have held it back from."""
        last = max(self._beyond)
        self._stragglers.update(tag for tag in range(self._oldest, last) if tag not in self._beyond)
        self._oldest = last + 1
        self._beyond.clear()

    def take_all_back(self) -> Sequence[bytes]:
        """The frames that tell what was settled, and then hand back everything else."""
        frames = list(self.take())
        unsettled = sorted(self._stragglers)
        unsettled += [tag for tag in range(self._oldest, self.last + 1) if tag not in self._beyond]
        for start in range(0, len(unsettled), IN_ORDER):
            last = unsettled[start : start + IN_ORDER][-1]  # a tag that the broker still knows
            frames.append(nack_frame(self._channel, last, multiple=True))
        self._stragglers.clear()
        self._oldest = self.last + 1
        self._beyond.clear()
        return frames

    def _advance(self) -> None:
        oldest, beyond = self._oldest, self._beyond
        while oldest in beyond:
            beyond.remove(oldest)
            oldest += 1
        self._oldest = oldest
