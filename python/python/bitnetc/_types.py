"""What requests return. All of it is immutable."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class TopLogprob(NamedTuple):
    """One of the likeliest tokens at a place."""

    id: int
    text: str
    logprob: float


class TokenLogprob(NamedTuple):
    """The token at a place with the logarithm of its probability, and the likeliest tokens there, best first."""

    id: int
    text: str
    logprob: float
    top: tuple[TopLogprob, ...]


class _Record:
    """What the records have in common."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as a dict of lists, dicts, strings and numbers."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclasses.dataclass(frozen=True)
class Usage(_Record):
    """Tokens that a text took."""

    prompt_tokens: int
    """Tokens of the prompt."""
    cached_tokens: int
    """Of these, tokens that were not computed, because the engine held them already."""
    completion_tokens: int
    """Tokens that were made."""


@dataclasses.dataclass(frozen=True)
class Timings(_Record):
    """How long the parts of a text took, in milliseconds. A step that several texts share counts for each of them."""

    queue_ms: float
    """Until the text was given its place."""
    prompt_ms: float
    """For the prompt."""
    decode_ms: float
    """For the tokens after it."""


@dataclasses.dataclass(frozen=True)
class Completion(_Record):
    """A text that was made."""

    text: str
    """The text; of a chat, what the assistant says."""
    tokens: tuple[int, ...]
    """The ids of its tokens, without the end token."""
    logprobs: tuple[TokenLogprob, ...] | None
    """The probability of each token, where ``logprobs`` asked for them."""
    finish_reason: FinishReason
    """``stop``: the model, a stop string or a form ended it; ``length``: it would have gone on; ``tool_calls``: it calls tools."""
    seed: int
    """The seed that makes the same text again."""
    usage: Usage
    timings: Timings
    ended_by: str
    """In detail: ``end_token``, ``stop_token``, ``stop_string``, ``grammar``, ``limit``, ``context_full`` or ``interrupted``."""
    stop_reason: str | int | None = None
    """The stop string, or the stop token, that ended it."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """The probability of each token of the prompt after the first, where ``prompt_logprobs`` asked for them."""
    message: Mapping[str, Any] | None = None
    """Of a chat: the message, to be appended to the conversation, with ``tool_calls`` and ``reasoning_content`` where there are any."""

    def __repr__(self) -> str:
        return f"Completion(text={self.text!r}, finish_reason={self.finish_reason!r}, usage={self.usage!r}, seed={self.seed})"

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Piece(_Record):
    """A part of a text, as soon as it is certain. The texts of all pieces, joined, are the text of the completion."""

    text: str
    tokens: tuple[int, ...] = ()
    """The ids of its tokens. Empty in a chat, whose tokens are in the completion."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    """Of a chat: thoughts."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Of a chat: parts of calls of tools, as in OpenAI's streams."""
    completion: Completion | None = None
    """The whole text, with the last piece only."""


@dataclasses.dataclass(frozen=True)
class Memory(_Record):
    """Bytes of memory that a model takes."""

    weights: int
    """Of the weights. Those of a plan are shared by all processes that have it open."""
    sequence: int
    """Of one sequence when its context is full. What is not used is not taken."""
    sequences: int
    """Of all of them when they are full."""
    resident: int | None
    """Of the whole process now, where the system says so."""


@dataclasses.dataclass(frozen=True)
class Metrics(_Record):
    """What a model's engine has counted since the model was opened."""

    running: int
    """Texts that are being made now."""
    waiting: int
    """Requests that wait for a place."""
    steps: int
    """Steps. A step makes a token of each running text, and reads parts of prompts."""
    prompt_tokens: int
    """Tokens of prompts that were computed."""
    cached_tokens: int
    """Tokens of prompts that did not have to be."""
    completion_tokens: int
    """Tokens that were made."""
    finished: int
    """Texts that have ended, in whatever way."""


@dataclasses.dataclass(frozen=True)
class ModelInfo(_Record):
    """What is known of a model."""

    name: str
    """Its name in answers."""
    file: str
    architecture: str
    parameters: int
    hidden_size: int | None
    vocab_size: int
    trained_context: int
    """Tokens that it was trained for."""
    context: int
    """Tokens that a text has room for, prompt included."""
    parallel: int
    """Texts that are made at a time."""
    threads: int
    head: str
    kv_type: str | None
    target: str
    """The machine that its code was generated for."""
    source_hash: str
    """What identifies the model file, the same for a GGUF and for every plan of it."""
    chat_template: str | None
    """The name of its chat template; ``None`` where it has none and cannot chat."""
    notes: tuple[str, ...]
    """Remarks on defaults that were used."""


class Explanation(Mapping[str, Any]):
    """What a compiled model does, op by op: the object of ``bitnetc explain --json``. In a notebook it is shown as a page."""

    def __init__(self, document: dict[str, Any], page: Callable[[], str]) -> None:
        self._document = document
        self._page = page

    def __getitem__(self, key: str) -> Any:
        return self._document[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document)

    def __len__(self) -> int:
        return len(self._document)

    def to_dict(self) -> dict[str, Any]:
        """The object."""
        return self._document

    def html(self) -> str:
        """The page of ``bitnetc explain --html``, which needs nothing else."""
        return self._page()

    def _repr_html_(self) -> str:
        page = html.escape(self.html(), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="width:100%;height:720px;border:1px solid #ccc">'
            "</iframe>"
        )

    def __repr__(self) -> str:
        return f"<Explanation of {self._document['model']}: {len(self._document['entries'])} entry points>"
