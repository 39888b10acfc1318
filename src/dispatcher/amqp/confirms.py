"""Which publishes of one channel the broker has answered (RabbitMQ: publisher confirms).

The broker counts the publishes of a channel in confirm mode from 1 and answers with those numbers, singly or for all
up to one. Each publish has a waiter, an object that means nothing here.
"""

from __future__ import annotations

from typing import Any

from .errors import ProtocolError

__all__ = ["Confirms"]


class Confirms:
    """The unanswered publishes of one channel."""

    __slots__ = ("_oldest", "_waiters", "last")

    def __init__(self) -> None:
        self._waiters: dict[int, Any] = {}
        self._oldest = 1  # the lowest number that is unanswered
        self.last = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Any) -> int:
        """Note a publish and return its number."""
        self.last += 1
        self._waiters[self.last] = waiter
        return self.last

    def waiter(self, number: int) -> Any:
        """Who waits for that publish; None if it was answered."""
        return self._waiters.get(number)

    def answer(self, number: int, *, multiple: bool, answered: list[Any]) -> None:
        """Append to `answered` the waiters that an ack or nack answers, in the order of their publishes; forget them.

        A number of zero with `multiple` means all (AMQP 0-9-1, basic.ack). A second answer to a publish changes nothing.
        """
        waiters = self._waiters
        if multiple and number == 0:
            number = self.last
        if not 0 < number <= self.last:
            raise ProtocolError(505, f"expected a confirm of publish 1 to {self.last}, got {number}")
        oldest = self._oldest
        if not multiple:
            if number in waiters:
                answered.append(waiters.pop(number))
            if number != oldest:
                return
        # Each number is passed once in the life of a channel, whatever the order of the answers.
        while oldest <= number or (oldest <= self.last and oldest not in waiters):
            if oldest in waiters:
                answered.append(waiters.pop(oldest))
            oldest += 1
        self._oldest = oldest

    def take_all(self) -> list[Any]:
        """Every waiter that has no answer; they are forgotten."""
        waiters = list(self._waiters.values())
        self._waiters.clear()
        self._oldest = self.last + 1
        return waiters
