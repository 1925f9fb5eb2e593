"""A model: texts, conversations, tokens, scores, and what was compiled."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union, cast, overload

from . import _async, _bitnetc
from . import _options as options_of
from ._batch import BatchMap
from ._errors import RequestError
from ._options import CHAT, COMPLETIONS, ChatOptions, GenerateOptions, LoadOptions
from ._requests import Pieces, Request, completion_of
from ._session import Session, Tokenizer
from ._types import Completion, Explanation, Memory, Metrics, ModelInfo, Piece

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

logger = logging.getLogger("bitnetc")
# What is remarked on is for programs that listen: by default it is not shown.
logger.addHandler(logging.NullHandler())

Prompt = Union[str, list[int]]
"""What a text continues: a text, or token ids."""
Messages = Sequence[Mapping[str, Any]]
"""A conversation, in OpenAI's form: ``[{"role": "user", "content": "…"}, …]``."""

# Texts of a list that are under way, for each that is made at a time: while the first is waited for, the others go on.
AHEAD = 4


class Model:
    """A model that is ready to make texts.

    ``path`` is a ``.gguf`` file, a compiled plan, a model of the Hugging Face Hub (``hf:org/repo[@revision][:file]``) or an alias such
    as ``2b-4t``; without it, the built-in model is opened, which was trained on Shakespeare. Options are those of :class:`LoadOptions`.

    All threads and event loops may use a model at the same time. Their texts are made together by one engine, several in each step,
    and each is the text that its request would have alone.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, /, **options: Unpack[LoadOptions]) -> None:
        checked = options_of.load_options(options)
        self._path = options_of.model_path(path)
        self._options = {name: value for name, value in options.items() if value is not None}
        self._core = _bitnetc.Model(self._path, checked, logger.info)
        self._info: ModelInfo | None = None
        self._ahead = AHEAD * checked["parallel"]
        self.tokenizer = Tokenizer(self._core)
        for note in self.info.notes:
            logger.info("%s: %s", self.info.name, note)

    # Texts.

    # A string is a sequence of strings, too: what comes first counts.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, /, **options: Unpack[GenerateOptions]
    ) -> Completion: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], /, **options: Unpack[GenerateOptions]) -> list[Completion]: ...
    def generate(self, prompt: Any, /, **options: Unpack[GenerateOptions]) -> Any:
        """The text that continues a prompt, or a list of those that continue the prompts of a list, made together."""
        prompts, one = options_of.prompts(prompt)
        requests = (self._text("generate", each, options) for each in prompts)
        made = self._complete_all(requests)
        return made[0] if one else made

    def stream(self, prompt: Prompt, /, **options: Unpack[GenerateOptions]) -> Generator[Piece, None, None]:
        """The text that continues a prompt, piece by piece as it is made. Whoever stops reading ends it."""
        return self._stream(self._one_text("stream", prompt, options))

    def chat(self, messages: Messages, /, **options: Unpack[ChatOptions]) -> Completion:
        """The answer to a conversation."""
        return self._complete(self._conversation("chat", messages, options))

    def chat_stream(self, messages: Messages, /, **options: Unpack[ChatOptions]) -> Generator[Piece, None, None]:
        """The answer to a conversation, piece by piece as it is made."""
        return self._stream(self._conversation("chat_stream", messages, options, stream=True))

    # A string is a sequence of strings, too: what comes first counts.
    @overload
    async def agenerate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, /, **options: Unpack[GenerateOptions]
    ) -> Completion: ...
    @overload
    async def agenerate(self, prompt: Sequence[Prompt], /, **options: Unpack[GenerateOptions]) -> list[Completion]: ...
    async def agenerate(self, prompt: Any, /, **options: Unpack[GenerateOptions]) -> Any:
        """As :meth:`generate`, in an event loop. Cancelling the task ends the texts."""
        prompts, one = options_of.prompts(prompt)
        requests = [self._text("agenerate", each, options) for each in prompts]
        made = await self._acomplete_all(requests)
        return made[0] if one else made

    def astream(self, prompt: Prompt, /, **options: Unpack[GenerateOptions]) -> AsyncGenerator[Piece, None]:
        """As :meth:`stream`, in an event loop."""
        return self._astream(self._one_text("astream", prompt, options))

    async def achat(self, messages: Messages, /, **options: Unpack[ChatOptions]) -> Completion:
        """As :meth:`chat`, in an event loop."""
        return await self._acomplete(self._conversation("achat", messages, options))

    def achat_stream(self, messages: Messages, /, **options: Unpack[ChatOptions]) -> AsyncGenerator[Piece, None]:
        """As :meth:`chat_stream`, in an event loop."""
        return self._astream(self._conversation("achat_stream", messages, options, stream=True))

    # The server's API.

    def openai(self, path: str, body: Mapping[str, Any], /) -> dict[str, Any]:
        """The answer of ``bitnetc serve`` to this request: its paths of OpenAI, Anthropic, llama.cpp and ollama, ``/tokenize``,
        ``/detokenize`` and ``/apply-template``. A refusal is a :class:`RequestError`."""
        data = self._in_one_piece("openai", path, body)
        if (answer := self._core.answer(path, data)) is not None:
            return cast(dict[str, Any], json.loads(answer))
        call = self._core.submit(path, data, True)
        try:
            while not call.ended:
                call.wait()
            return cast(dict[str, Any], json.loads(call.body()))
        finally:
            call.cancel()

    def openai_stream(self, path: str, body: Mapping[str, Any], /) -> Generator[dict[str, Any], None, None]:
        """The events of the server's stream for this request, as they come. Those that are no JSON, such as ``[DONE]``, are left out."""
        call = self._core.submit(path, self._in_pieces("openai_stream", path, body), True)
        return self._frames(call)

    async def aopenai(self, path: str, body: Mapping[str, Any], /) -> dict[str, Any]:
        """As :meth:`openai`, in an event loop."""
        data = self._in_one_piece("aopenai", path, body)
        if (answer := self._core.answer(path, data)) is not None:
            return cast(dict[str, Any], json.loads(answer))
        async with _async.Submitted(self._core, path, data, True) as (call, event):
            async for _ in _async.items(call, event):
                pass
            return cast(dict[str, Any], json.loads(call.body()))

    async def aopenai_stream(self, path: str, body: Mapping[str, Any], /) -> AsyncGenerator[dict[str, Any], None]:
        """As :meth:`openai_stream`, in an event loop."""
        data = self._in_pieces("aopenai_stream", path, body)
        async with _async.Submitted(self._core, path, data, True) as (call, event):
            async for item in _async.items(call, event):
                if isinstance(item, str):
                    yield json.loads(item)

    # Tokens and scores.

    def session(self, *, context: int | None = None) -> Session:
        """A session: logits after tokens. It computes on the thread that asks."""
        room = None if context is None else options_of.whole("context", context, 1, 2**32 - 1)
        return Session(self._core.session(room))

    def loglikelihood(self, pairs: Iterable[tuple[str, str]], /) -> list[tuple[float, bool]]:
        """How likely texts are after contexts: for each pair the sum of the logarithms of the probabilities of the text's tokens,
        and whether each of them is the likeliest at its place. A context that several pairs share is computed once.

        White space at the end of a context counts as the beginning of the text, as tokenizers have it. An empty context is the
        model's begin-of-text token.
        """
        listed = options_of.pairs(pairs)
        return self.loglikelihood_tokens([self.tokenizer.encode_pair(context, text) for context, text in listed])

    def loglikelihood_tokens(
        self, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], /
    ) -> list[tuple[float, bool]]:
        """As :meth:`loglikelihood`, of token ids."""
        listed = options_of.pairs(pairs)
        tokens = [(options_of.tokens("context", first), options_of.tokens("text", second)) for first, second in listed]
        return self._core.loglikelihood(tokens)

    def batch_map(self, column: str, /, *, into: str = "completion", **options: Unpack[ChatOptions]) -> BatchMap:
        """A function for ``datasets.Dataset.map(…, batched=True)`` and its like: see :class:`BatchMap`."""
        return BatchMap(self, column, into, options)

    # What there is.

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        if self._info is None:
            known = json.loads(self._core.info())
            self._info = ModelInfo(**{**known, "notes": tuple(known["notes"])})
        return self._info

    @property
    def memory(self) -> Memory:
        """Bytes of memory that it takes."""
        weights, sequence, resident = self._core.memory()
        return Memory(weights, sequence, sequence * self.info.parallel, resident)

    @property
    def metrics(self) -> Metrics:
        """What its engine has counted."""
        return Metrics(**json.loads(self._core.metrics()))

    def ir(self, stage: str = "planned", entry: str | None = None) -> str:
        """The module in a stage of its compilation (``imported``, ``fused``, ``laid_out`` or ``planned``), or one of its functions
        (``decode``, ``prefill`` or ``head``), as ``bitnetc ir dump`` prints it."""
        return self._core.ir(options_of.word("stage", stage), None if entry is None else options_of.word("entry", entry))

    def explain(self, *, depth: int = 0) -> Explanation:
        """What the compiled model does, op by op: types, bytes, kernels, predicted times. ``depth`` is the number of tokens before."""
        depth = options_of.whole("depth", depth, 0, 1 << 20)
        return Explanation(json.loads(self._core.explain(depth)), lambda: self._core.explain_html(depth))

    # Its life.

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._core.closed

    def close(self) -> None:
        """Ends the engine and gives back its memory. Texts under way end with :class:`Cancelled`."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<bitnetc.Model {self.info.name!r}: context {self.info.context}, parallel {self.info.parallel}>"

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[str | None, dict[str, Any]]]:
        return restored, (self._path, self._options)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any], /) -> Self:
        return self

    # Requests.

    def _text(self, function: str, prompt: Any, options: Mapping[str, Any], **more: Any) -> Request:
        return Request(COMPLETIONS, options_of.generate_body(function, prompt, options, **more), options)

    def _one_text(self, function: str, prompt: Any, options: Mapping[str, Any]) -> Request:
        prompts, one = options_of.prompts(prompt)
        if not one:
            raise TypeError(f"{function}() takes one prompt: a string or a list of token ids")
        return self._text(function, prompts[0], options, stream=True)

    def _conversation(self, function: str, messages: Any, options: Mapping[str, Any], **more: Any) -> Request:
        return Request(CHAT, options_of.chat_body(function, messages, options, **more), options)

    @staticmethod
    def _check_openai(function: str, path: str, body: Mapping[str, Any]) -> None:
        if not isinstance(path, str) or not isinstance(body, Mapping):
            raise TypeError(f"{function}() takes a path and a dict, not {type(path).__name__} and {type(body).__name__}")

    def _in_pieces(self, function: str, path: str, body: Mapping[str, Any]) -> bytes:
        self._check_openai(function, path, body)
        return options_of.dumps({**body, "stream": True})

    def _in_one_piece(self, function: str, path: str, body: Mapping[str, Any]) -> bytes:
        self._check_openai(function, path, body)
        # ollama's routes make streams unless they are told otherwise.
        if path.startswith("/api/") and body.get("stream") is None:
            body = {**body, "stream": False}
        if body.get("stream"):
            raise RequestError(f"stream: {function}() returns answers in one piece: use {function}_stream()", "stream")
        return options_of.dumps(body)

    def _submit(self, request: Request) -> _bitnetc.Call:
        return self._core.submit(request.path, request.body, request.shaped)

    def _complete(self, request: Request) -> Completion:
        return self._complete_all([request])[0]

    def _complete_all(self, requests: Iterable[Request]) -> list[Completion]:
        under_way: deque[tuple[Request, _bitnetc.Call]] = deque()
        made: list[Completion] = []
        try:
            for request in requests:
                if len(under_way) >= self._ahead:
                    made.append(completion_of(*under_way[0]))
                    under_way.popleft()
                under_way.append((request, self._submit(request)))
            while under_way:
                made.append(completion_of(*under_way[0]))
                under_way.popleft()
        finally:
            for _, call in under_way:
                call.cancel()
        return made

    async def _acomplete(self, request: Request) -> Completion:
        async with _async.Submitted(self._core, request.path, request.body, request.shaped) as (call, event):
            end = None
            async for item in _async.items(call, event):
                end = item if isinstance(item, _bitnetc.Finished) else end
            return request.completion(call, end, whole=True)

    async def _acomplete_all(self, requests: Sequence[Request]) -> list[Completion]:
        room = asyncio.Semaphore(self._ahead)

        async def one(request: Request) -> Completion:
            async with room:
                return await self._acomplete(request)

        tasks = [asyncio.ensure_future(one(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def _stream(self, request: Request) -> Generator[Piece, None, None]:
        # What is wrong with it is said now, not when the first piece is read.
        return self._pieces(request, self._submit(request))

    @staticmethod
    def _pieces(request: Request, call: _bitnetc.Call) -> Generator[Piece, None, None]:
        pieces = Pieces(request, call)
        try:
            while not call.ended:
                for item in call.wait():
                    if (piece := pieces.of(item)) is not None:
                        yield piece
            yield pieces.last()
        finally:
            call.cancel()

    async def _astream(self, request: Request) -> AsyncGenerator[Piece, None]:
        async with _async.Submitted(self._core, request.path, request.body, request.shaped) as (call, event):
            pieces = Pieces(request, call)
            async for item in _async.items(call, event):
                if (piece := pieces.of(item)) is not None:
                    yield piece
            yield pieces.last()

    @staticmethod
    def _frames(call: _bitnetc.Call) -> Generator[dict[str, Any], None, None]:
        try:
            while not call.ended:
                for item in call.wait():
                    if isinstance(item, str):
                        yield json.loads(item)
        finally:
            call.cancel()


# The model that was unpickled last, with the process that did so: every task of a worker unpickles what it is given.
_restored: tuple[int, str, Model] | None = None


def restored(path: str | None, options: dict[str, Any]) -> Model:
    """The model that a pickle stands for: opened again, or the one that this process has opened for the same pickle."""
    global _restored
    key = json.dumps([path, options], sort_keys=True, default=str)
    if _restored is not None and _restored[:2] == (os.getpid(), key) and not _restored[2].closed:
        return _restored[2]
    model = Model(path, **options)
    _restored = (os.getpid(), key, model)
    return model
