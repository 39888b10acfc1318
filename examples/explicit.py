"""The explicit level: a server, its queues and workers, tasks as data. It has every type of the Go package.

Run it: `python examples/explicit.py`.
"""

from __future__ import annotations

import asyncio

from dispatcher import Queue, Server, ServerConfig, Task, TaskArgument, TaskConfig, WorkerConfig

done = asyncio.Event()


async def resize(uuid: str, path: str, width: int) -> None:
    print(f"resize {path} to {width} (its uuid has {len(uuid)} characters)")
    done.set()


async def main() -> None:
    config = ServerConfig(
        url="memory://",
        exchange="pictures",
        default_routing_key="resize",
        init_queues=[Queue("pictures_small", binding_keys=("resize",))],
    )
    async with await Server.connect(config) as server:
        worker = await server.new_worker(
            WorkerConfig(name="worker_1", queue="pictures_small", limit=3),
            {"resize": TaskConfig(resize, timeout_seconds=60, task_uuid_as_first_arg=True)},
        )
        await worker.start()
        await server.publish(Task("resize", [TaskArgument("string", "cat.png"), TaskArgument("int", 320)]))
        async with asyncio.timeout(30):
            await done.wait()
        print(server.get_worker_by_name("worker_1").config.queue)
    print("closed:", server.closed)


if __name__ == "__main__":
    asyncio.run(main())
