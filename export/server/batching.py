"""Images that wait at the same time run through the network together."""

import asyncio
from collections.abc import Callable

import numpy as np


class Batcher:
    """A queue in front of a network: each run takes what came in during the one before.

    Nobody waits for a batch to fill: a lone image runs at once, and a crowd in batches.
    """

    def __init__(self, run: Callable[[list[np.ndarray]], np.ndarray], size: int):
        self._run, self._size = run, size
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def submit(self, image: np.ndarray) -> np.ndarray:
        """Return the network's answer to one image."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((image, answer))
        return await answer

    async def _work(self) -> None:
        while True:
            group = [await self._waiting.get()]
            while len(group) < self._size and not self._waiting.empty():
                group.append(self._waiting.get_nowait())
            # Whoever went away or was told to try later is not answered.
            group = [(image, answer) for image, answer in group if not answer.done()]
            if not group:
                continue
            try:
                rows = await asyncio.to_thread(self._run, [image for image, _ in group])
            except Exception as error:
                for _, answer in group:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), row in zip(group, rows, strict=True):
                    if not answer.done():
                        answer.set_result(row)
