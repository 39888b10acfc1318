"""Sending from synchronous code: a Flask or Django view, a script, a thread. It blocks until the task is on disk.

Run it: `python examples/from_sync_code.py`.
"""

from __future__ import annotations

import asyncio
import threading

from dispatcher import Dispatcher

app = Dispatcher()


@app.task(queue="mails")
def welcome(address: str) -> None:
    print(f"welcome, {address}")


def sign_up(address: str) -> tuple[int, str]:
    """What a view does: no event loop in sight."""
    receipt = welcome.send_sync(address)
    return 202, receipt.uuid


def main() -> None:
    status, _ = sign_up("ada@example.org")
    print("status", status)
    thread = threading.Thread(target=sign_up, args=("bob@example.org",))
    thread.start()
    thread.join()
    app.close_sync()  # else it is closed when the interpreter ends
    asyncio.run(app.run_worker(limit=1, burst=True))  # elsewhere: dispatcher worker from_sync_code:app


if __name__ == "__main__":
    main()
