"""Waiting for the engine in an event loop.

The engine's thread never asks for the interpreter: it writes to a socket, which the loop watches. No thread waits for a text.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from . import _bitnetc


class Waiters:
    """The calls that an event loop waits for."""

    _of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Waiters] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self.wakeups = _bitnetc.Wakeups()
        self._events: dict[int, asyncio.Event] = {}
        self._numbers = itertools.count()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Waiters:
        """Those of this loop."""
        waiters = cls._of_loops.get(loop)
        if waiters is None:
            waiters = cls._of_loops[loop] = cls()
        return waiters

    def _ready(self) -> None:
        for number in self.wakeups.take():
            if event := self._events.get(number):
                event.set()

    @contextmanager
    def waiting(self, loop: asyncio.AbstractEventLoop) -> Iterator[tuple[int, asyncio.Event]]:
        """A number by which the native module wakes the loop, and the event that is set then. The socket is watched meanwhile."""
        number, event = next(self._numbers), asyncio.Event()
        if not self._events:
            loop.add_reader(self.wakeups.fileno(), self._ready)
        self._events[number] = event
        try:
            yield number, event
        finally:
            del self._events[number]
            if not self._events:
                loop.remove_reader(self.wakeups.fileno())


class Submitted:
    """A call, and the event that is set when it has news. It is cancelled at the end.

    This is no asynchronous generator: a loop that shuts down closes all of those at once, so that none may depend on another.
    """

    def __init__(self, core: _bitnetc.Model, path: str, body: bytes, shaped: bool) -> None:
        self._submit = core.submit
        self._request = (path, body, shaped)
        self._end = ExitStack()

    async def __aenter__(self) -> tuple[_bitnetc.Call, asyncio.Event]:
        loop = asyncio.get_running_loop()
        waiters = Waiters.of(loop)
        with ExitStack() as end:
            number, event = end.enter_context(waiters.waiting(loop))
            # Templates, tokens and forms take their time. A call that comes too late is dropped, and with it its texts.
            call = await loop.run_in_executor(None, self._submit, *self._request, (waiters.wakeups, number))
            end.callback(call.cancel)
            self._end = end.pop_all()
        return call, event

    async def __aexit__(self, *_: object) -> None:
        self._end.close()


async def items(call: _bitnetc.Call, event: asyncio.Event) -> AsyncGenerator[Any, None]:
    """What a call hands out, as it comes."""
    while not call.ended:
        event.clear()
        news = call.take()
        for item in news:
            yield item
        if not news and not call.ended:
            await event.wait()
