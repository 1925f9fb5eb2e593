"""Event loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from conftest import shares_steps

import bitnetc

OPTIONS: dict[str, Any] = {"max_tokens": 12, "seed": 4}
CHAT = [{"role": "user", "content": "Good morrow"}]


def test_texts_are_those_of_threads(model: bitnetc.Model) -> None:
    async def all_of_them() -> list[Any]:
        pieces = [piece async for piece in model.astream("ROMEO:", **OPTIONS)]
        chat = [piece async for piece in model.achat_stream(CHAT, **OPTIONS)]
        return [
            (await model.agenerate("ROMEO:", **OPTIONS)).text,
            "".join(piece.text for piece in pieces),
            pieces[-1].completion.text,
            (await model.achat(CHAT, **OPTIONS)).text,
            "".join(piece.text for piece in chat),
            [made.text for made in await model.agenerate(["A", "B"], **OPTIONS)],
        ]

    text, chat = model.generate("ROMEO:", **OPTIONS).text, model.chat(CHAT, **OPTIONS).text
    listed = [made.text for made in model.generate(["A", "B"], **OPTIONS)]
    assert asyncio.run(all_of_them()) == [text, text, text, chat, chat, listed]
    # In a loop of its own again.
    assert asyncio.run(model.agenerate("ROMEO:", **OPTIONS)).text == text


def test_the_loop_runs_meanwhile_and_texts_share_steps(model: bitnetc.Model) -> None:
    async def together() -> tuple[list[str], int]:
        turns, done = 0, False

        async def turn() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.ensure_future(turn())
        made = await asyncio.gather(*(model.agenerate(str(at), max_tokens=10, seed=at, cache_prompt=False) for at in range(40)))
        done = True
        await turning
        return [each.text for each in made], turns

    alone = [model.generate(str(at), max_tokens=10, seed=at, cache_prompt=False).text for at in range(40)]
    descriptors = len(os.listdir("/proc/self/fd"))

    def made() -> None:
        texts, turns = asyncio.run(together())
        assert texts == alone and turns > 10

    assert shares_steps(model, made)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


async def quiet(model: bitnetc.Model) -> None:
    """Waits until no text is being made."""
    while model.metrics.running or model.metrics.waiting:
        await asyncio.sleep(0.01)


def test_cancelling_a_task_ends_its_text(model: bitnetc.Model) -> None:
    async def cancelled() -> None:
        endless = {"max_tokens": 200, "ignore_eos": True}
        task = asyncio.ensure_future(model.agenerate(["A"] * 500, **endless))
        while not model.metrics.running:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await quiet(model)
        assert model.metrics.completion_tokens < before + 500 * 200
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(model.agenerate(["A"] * 500, **endless), 0.05)
        await quiet(model)
        async for _ in model.astream("A", **endless):
            break
        await quiet(model)

    before = model.metrics.completion_tokens
    asyncio.run(asyncio.wait_for(cancelled(), 100))


def test_errors_are_those_of_threads(model: bitnetc.Model) -> None:
    async def refused() -> None:
        with pytest.raises(bitnetc.RequestError):
            await model.agenerate("x", top_p=-1)
        with pytest.raises(bitnetc.ContextLengthError):
            await model.agenerate([1] * 300)
        with pytest.raises(TypeError, match="did you mean 'temperature'"):
            model.astream("x", temprature=1)  # type: ignore[call-arg]
        with pytest.raises(bitnetc.RequestError):
            async for _ in model.achat_stream([], max_tokens=1):
                pass
        body = {"prompt": "A", "max_tokens": 3, "seed": 1}
        answer = await model.aopenai("/v1/completions", body)
        frames = [frame async for frame in model.aopenai_stream("/v1/completions", body)]
        assert "".join(frame["choices"][0]["text"] for frame in frames) == answer["choices"][0]["text"]
        assert (await model.aopenai("/tokenize", {"content": "A"}))["tokens"]

    asyncio.run(refused())


def test_streams_that_a_loop_leaves_behind_end_quietly(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, errors = run(
        program="""
import asyncio, bitnetc, time
model = bitnetc.Model(context=256, threads=1)
async def begun():
    stream = model.astream("A", max_tokens=200, ignore_eos=True)
    await stream.__anext__()
    return stream
streams = [asyncio.run(begun()) for _ in range(20)]
while model.metrics.running:
    time.sleep(0.01)
async def rest():
    return [piece for stream in streams async for piece in stream]
print(asyncio.run(rest()))
"""
    )
    assert (code, out, errors) == (0, "[]\n", "")


def test_closing_a_model_ends_what_loops_wait_for() -> None:
    async def closed() -> None:
        model = bitnetc.Model(context=256, parallel=1, threads=1)
        task = asyncio.ensure_future(model.agenerate(["A"] * 50, max_tokens=200, ignore_eos=True))
        while not model.metrics.running:
            await asyncio.sleep(0.01)
        await asyncio.get_running_loop().run_in_executor(None, model.close)
        with pytest.raises(bitnetc.Error):
            await task

    asyncio.run(asyncio.wait_for(closed(), 100))
