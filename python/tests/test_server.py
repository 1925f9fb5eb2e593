"""`openai` answers as the server does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import TIMEOUT

import bitnetc

CHAT = [{"role": "user", "content": "Good morrow"}]
SHORT = {"max_tokens": 6, "seed": 3}


@pytest.fixture
def server(start: Callable[..., Any]) -> Iterator[str]:
    process = start("-m", "bitnetc", "-q", "serve", "--port", "0", "-c", "256", "--parallel", "4")
    yield process.stdout.readline().strip()


def post(url: str, body: Any) -> tuple[int, str]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def settled(value: Any) -> Any:
    """Without what differs from run to run: ids, dates, times, which slot served it, and what was reused."""
    changing = ("id", "created", "created_at", "completed_at", "timings", "prompt_tokens_details", "input_tokens_details")
    changing += ("tokens_cached", "id_slot", "cache_read_input_tokens", "cache_creation_input_tokens", "response_id", "item_id")
    if isinstance(value, dict):
        kept = {name: settled(each) for name, each in value.items() if name not in changing}
        # Anthropic's count leaves out what was reused.
        if "cache_read_input_tokens" in value:
            kept["input_tokens"] += value["cache_read_input_tokens"]
        return {name: each for name, each in kept.items() if not name.endswith("_duration")}
    return [settled(each) for each in value] if isinstance(value, list) else value


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "ROMEO:", **SHORT}),
    ("/v1/completions", {"prompt": ["A", "B"], "n": 2, "logprobs": 2, "echo": True, **SHORT}),
    ("/v1/chat/completions", {"messages": CHAT, "logprobs": True, "top_logprobs": 2, **SHORT}),
    ("/v1/chat/completions", {"messages": CHAT, "guided_choice": ["yes", "no"], "seed": 1}),
    ("/v1/responses", {"input": "Good morrow", "max_output_tokens": 6, "seed": 3}),
    ("/v1/messages", {"messages": CHAT, **SHORT}),
    ("/completion", {"prompt": "ROMEO:", "n_predict": 6, "seed": 3}),
    ("/api/chat", {"messages": CHAT, "stream": False, "options": {"num_predict": 6, "seed": 3}}),
    ("/api/generate", {"prompt": "ROMEO:", "stream": False, "raw": True, "options": {"num_predict": 6, "seed": 3}}),
    ("/v1/messages/count_tokens", {"messages": CHAT}),
    ("/tokenize", {"content": "To be", "with_pieces": True}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/apply-template", {"messages": CHAT}),
]

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "A", "top_p": -1}),
    ("/v1/completions", {"prompt": [1] * 300}),
    ("/v1/completions", {"prompt": 5}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/chat/completions", {"messages": CHAT, "suffix": "x"}),
    ("/v1/completions", {"prompt": "A", "grammar": "root ::= ("}),
    ("/tokenize", {}),
]

STREAMS = [
    ("/v1/completions", {"prompt": "ROMEO:", "stream_options": {"include_usage": True}, **SHORT}),
    ("/v1/chat/completions", {"messages": CHAT, **SHORT}),
    ("/v1/messages", {"messages": CHAT, **SHORT}),
    ("/v1/responses", {"input": "Good morrow", "max_output_tokens": 6, "seed": 3}),
    ("/api/chat", {"messages": CHAT, "options": {"num_predict": 6, "seed": 3}}),
]


def test_answers_refusals_and_streams_are_the_servers(model: bitnetc.Model, server: str) -> None:
    for path, body in BODIES:
        status, text = post(server + path, body)
        answer = model.openai(path, body)
        assert status == 200 and settled(answer) == settled(json.loads(text)), path
        assert list(answer) == list(json.loads(text)), path
    for path, body in REFUSED:
        status, text = post(server + path, body)
        with pytest.raises(bitnetc.RequestError) as refused:
            model.openai(path, body)
        error = json.loads(text)["error"]
        told = (refused.value.status, str(refused.value), refused.value.param, refused.value.code)
        assert told == (status, error["message"], error["param"], error["code"]), path
    for path, body in STREAMS:
        status, text = post(server + path, {**body, "stream": True})
        lines = [line.removeprefix("data: ") for line in text.splitlines() if not line.startswith(("event:", ":"))]
        sent = [json.loads(line) for line in lines if line and line != "[DONE]"]
        frames = list(model.openai_stream(path, body))
        assert status == 200 and joined(frames) == joined(sent), path
        assert frames[0].keys() == sent[0].keys() and frames[-1].keys() == sent[-1].keys(), path


def joined(frames: list[dict[str, Any]]) -> str:
    """The text of a stream, whatever API it is of, and how it ended: how it is cut depends on when pieces are fetched."""

    def text(frame: Any) -> Iterator[str]:
        if isinstance(frame, dict):
            for name, value in frame.items():
                if name in ("text", "content", "delta", "finish_reason", "stop_reason", "done_reason") and isinstance(value, str):
                    yield value
                else:
                    yield from text(value)
        elif isinstance(frame, list):
            for each in frame:
                yield from text(each)

    return "".join(part for frame in frames for part in text(frame))


def test_what_openai_does_not_take_is_said(model: bitnetc.Model) -> None:
    with pytest.raises(bitnetc.RequestError) as refused:
        model.openai("/v1/completions", {"prompt": "A", "stream": True})
    assert refused.value.param == "stream" and "openai_stream" in str(refused.value)
    for path in ("/v1/embeddings", "", "/v1/completions/"):
        with pytest.raises(bitnetc.RequestError) as absent:
            model.openai(path, {})
        assert (absent.value.status, absent.value.code) == (404, "not_found") and "/v1/completions" in str(absent.value)
    for arguments in ((3, {}), ("/v1/completions", "text"), ("/v1/completions", None)):
        for call in (model.openai, model.openai_stream):
            with pytest.raises(TypeError, match=f"{call.__name__}.. takes a path and a dict"):
                call(*arguments)  # type: ignore[arg-type]
    with pytest.raises(bitnetc.RequestError, match="/tokenize answers in one piece: use openai"):
        model.openai_stream("/tokenize", {"content": "a"})
