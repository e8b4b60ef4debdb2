"""A client's request in progress: its engine requests, and their outputs as they come."""

from __future__ import annotations

import asyncio
import os
from collections import deque

from pymotor.engines.sim import handoffs
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.prompts import Generation
from pymotor.engines.sim.requests import Output, Request
from pymotor.engines.sim.writers import Choice


class ClientGone(Exception):
    """The client closed its connection."""


class Answer:
    """Submits one engine request for each choice and collects what they say.

    Use as a context manager: on leaving, whatever still runs is cancelled and its blocks are free.
    """

    def __init__(self, driver: EngineDriver, generation: Generation, identifier: str, max_model_len: int) -> None:
        self._driver = driver
        self._outputs: deque[tuple[Choice, Output] | None] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self.choices: list[Choice] = []
        self.requests: list[Request] = []
        for prompt_index, prompt in enumerate(generation.prompts):
            name = identifier if generation.chat else f"{identifier}-{prompt_index}"
            for number in range(generation.n):
                child = name if generation.n == 1 else f"{number}_{name}"
                params = handoffs.of_prompt(generation.kv_transfer_params, child, prompt_index)
                self.choices.append(Choice(len(self.choices), prompt_index))
                self.requests.append(
                    Request(
                        id=f"{child}-{os.urandom(4).hex()}",
                        tokens=prompt.tokens,
                        sampling=generation.sampling_for(prompt, number, max_model_len),
                        media=prompt.media,
                        kv_transfer_params=params,
                        ec_transfer_params=generation.ec_transfer_params,
                        scope=generation.scope,
                    )
                )
        self.unfinished = len(self.choices)

    def __enter__(self) -> Answer:
        try:
            for choice, request in zip(self.choices, self.requests, strict=True):
                self._driver.submit(request, lambda output, choice=choice: self._put((choice, output)))  # type: ignore[misc]
        except handoffs.HandoffError as error:
            self.__exit__()
            raise RequestError(str(error)) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for request in self.requests:
            self._driver.cancel(request)

    def client_gone(self) -> None:
        """Wake the reader with `ClientGone`."""
        self._put(None)

    async def next(self) -> tuple[Choice, Output]:
        """The next output of any choice. Raises `ClientGone`."""
        while not self._outputs:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        item = self._outputs.popleft()
        if item is None:
            raise ClientGone
        if item[1].finish_reason is not None:
            self.unfinished -= 1
        return item

    def _put(self, item: tuple[Choice, Output] | None) -> None:
        self._outputs.append(item)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
