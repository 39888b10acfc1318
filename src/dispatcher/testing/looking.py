"""What waits in the queues of an app, as tasks. Takes nothing and changes nothing."""

from __future__ import annotations

from ..brokers.base import Message
from ..model.codec import decode_body
from ..model.headers import PREFIX
from ..model.task import Task
from ..runtime.app import Dispatcher

__all__ = ["waiting"]


async def waiting(app: Dispatcher) -> list[Task]:
    """The tasks that wait in the app's queues, the delayed ones included: what was sent and not run yet.

    In the order of the queues' declaration, oldest first in each. Values of arguments are as they stand on the wire; a
    task's own `delay_seconds` and `expires_seconds` are not told. Connects if nobody has. Raises `DecodeError` for a
    message that is not a task.
    """
    async with app:
        inspector = app.server.inspector
        return [_task(found.message) for queue in app.queues async for found in inspector.browse(queue.name)]


def _task(message: Message) -> Task:
    body = decode_body(message.body, max_bytes=len(message.body))
    theirs = {name: value for name, value in (message.headers or {}).items() if not name.startswith(PREFIX)}
    return Task(
        body.name,
        body.args,
        uuid=body.uuid,
        routing_key=message.routing_key,
        headers=theirs or None,
        priority=message.priority,
    )
