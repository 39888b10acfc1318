import asyncio

from dispatcher import Dispatcher, RetryPolicy

app = Dispatcher()  # $DISPATCHER_URL, else the embedded broker: the file dispatcher.db


@app.task(queue="emails", timeout_seconds=30, on_timeout="cancel", retry=RetryPolicy(max_attempts=5))
async def send_email(to: str, subject: str) -> None:
    print(f"to {to}: {subject}")


async def main() -> None:
    async with app:
        receipt = await send_email.send("ada@example.org", subject="welcome")
        print("on disk:", receipt.uuid)
        await send_email.options(delay_seconds=2).send("ada@example.org", "two seconds later")


if __name__ == "__main__":
    asyncio.run(main())
