"""Requests on their way: what is asked, and what completions and pieces are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import _bitnetc
from ._errors import Cancelled
from ._options import CHAT
from ._types import Completion, FinishReason, Piece, Timings, TokenLogprob, TopLogprob, Usage


def logprobs_of(scored: Sequence[Any]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(id, text, logprob, tuple(TopLogprob(*best) for best in top)) for id, text, logprob, top in scored
    )


def finish_reason_of(ended_by: str) -> FinishReason:
    if ended_by == "interrupted":
        return "cancelled"
    return "length" if ended_by in ("limit", "context_full") else "stop"


class Request:
    """A request that was checked: where it goes, its body, and what is told of its end."""

    def __init__(self, path: str, body: bytes, options: Mapping[str, Any]) -> None:
        self.path = path
        self.body = body
        self.shaped = path == CHAT
        self.scored = options.get("logprobs") is not None
        self.prompt_scored = options.get("prompt_logprobs") is not None
        stop = options.get("stop")
        self.stops = [stop] if isinstance(stop, str) else list(stop) if isinstance(stop, Iterable) else []

    def completion(self, call: _bitnetc.Call, end: _bitnetc.Finished | None, whole: bool) -> Completion:
        """What a text came to. Of a chat, `whole` says that the answer is one piece, which has the message."""
        if end is None:
            raise Cancelled("the text was cancelled")
        stop = self.stops[end.stop_string] if end.stop_string is not None and end.stop_string < len(self.stops) else None
        text, reason, message = end.text, finish_reason_of(end.ended_by), None
        if self.shaped and whole:
            choice = json.loads(call.body())["choices"][0]
            message = choice["message"]
            text = message.get("content") or ""
            if choice["finish_reason"] == "tool_calls":
                reason = "tool_calls"
        return Completion(
            text=text,
            tokens=tuple(end.tokens),
            logprobs=logprobs_of(end.logprobs) if self.scored else None,
            finish_reason=reason,
            seed=end.seed,
            usage=Usage(end.prompt_tokens, end.cached_tokens, len(end.tokens)),
            timings=Timings(end.queue_ms, end.prompt_ms, end.decode_ms),
            ended_by=end.ended_by,
            stop_reason=end.stop_token if stop is None else stop,
            prompt_logprobs=logprobs_of(end.prompt_logprobs) if self.prompt_scored else None,
            message=message,
        )


class Pieces:
    """Makes pieces of what a call hands out."""

    def __init__(self, request: Request, call: _bitnetc.Call) -> None:
        self._request = request
        self._call = call
        self._waiting: list[_bitnetc.Token] = []
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: list[dict[str, Any]] = []
        self._reason: str | None = None
        self._end: _bitnetc.Finished | None = None

    def of(self, item: Any) -> Piece | None:
        """The piece that an item completes, if it does."""
        if isinstance(item, _bitnetc.Finished):
            self._end = item
            return None
        if isinstance(item, _bitnetc.Token):
            self._waiting.append(item)
            return self._take(item.text) if item.text else None
        return self._of_frame(json.loads(item))

    def _take(self, text: str) -> Piece:
        tokens, self._waiting = self._waiting, []
        scored = logprobs_of([token.logprobs for token in tokens]) if self._request.scored else None
        return Piece(text, tuple(token.id for token in tokens), scored)

    def _of_frame(self, frame: dict[str, Any]) -> Piece | None:
        for choice in frame.get("choices", ()):
            self._reason = choice.get("finish_reason") or self._reason
            delta = choice.get("delta", {})
            text, reasoning = delta.get("content") or "", delta.get("reasoning_content") or ""
            calls = tuple(delta.get("tool_calls") or ())
            if not (text or reasoning or calls):
                continue
            for name, more in (("content", text), ("reasoning_content", reasoning)):
                if more:
                    self._message[name] = (self._message.get(name) or "") + more
            for part in calls:
                self._add_call(part)
            return Piece(text, reasoning=reasoning, tool_calls=calls)
        return None

    def _add_call(self, part: Mapping[str, Any]) -> None:
        while len(self._calls) <= part["index"]:
            self._calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = self._calls[part["index"]], part.get("function", {})
        call["id"] = part.get("id") or call["id"]
        for name in ("name", "arguments"):
            call["function"][name] += function.get(name) or ""

    def last(self) -> Piece:
        """The piece that ends the text, with the completion."""
        tail = self._end.tail if self._end is not None and not self._request.shaped else ""
        completion = self._request.completion(self._call, self._end, whole=False)
        if self._request.shaped:
            if self._calls:
                self._message["tool_calls"] = self._calls
            reason: FinishReason = "tool_calls" if self._reason == "tool_calls" else completion.finish_reason
            told = {"text": self._message["content"] or "", "message": self._message, "finish_reason": reason}
            return Piece("", completion=Completion(**{**vars(completion), **told}))
        return Piece(**{**vars(self._take(tail)), "completion": completion})


def completion_of(request: Request, call: _bitnetc.Call) -> Completion:
    """Waits for the text of a call."""
    end = None
    while not call.ended:
        for item in call.wait():
            end = item if isinstance(item, _bitnetc.Finished) else end
    return request.completion(call, end, whole=True)
