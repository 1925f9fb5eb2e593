"""The tokenizer of a model, and logits after tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from . import _bitnetc
from . import _options as options_of
from ._errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self


class Tokenizer:
    """The tokenizer of a model."""

    def __init__(self, core: _bitnetc.Model) -> None:
        self._core = core
        self.bos_token_id, self.eos_token_id = core.special_tokens()

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of a text: by default those that :meth:`Model.generate` makes of it.

        ``add_special_tokens`` puts the begin-of-text token in front if the model asks for it. ``parse_special`` lets control tokens
        that are spelled out become these tokens: turn it off for text of others.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {type(text).__name__}")
        return self._core.encode(_whole_characters(text), add_special_tokens, parse_special)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids. Bytes that are no UTF-8 become replacement characters."""
        return self._core.decode(options_of.tokens("ids", ids), not skip_special_tokens)

    def token_bytes(self, id: int, /) -> bytes:
        """The bytes of a token."""
        return bytes(self._core.token_bytes(options_of.whole("id", id, 0, 2**32 - 1)))

    def encode_pair(self, context: str, text: str) -> tuple[list[int], list[int]]:
        """The ids of a context and of the text after it, tokenized together: white space at the end of the context belongs to the
        text. An empty context is the begin-of-text token, or the end-of-text token where there is none."""
        if not isinstance(context, str) or not isinstance(text, str):
            raise TypeError(f"a pair is two strings, not {type(context).__name__} and {type(text).__name__}")
        stripped = context.rstrip()
        first = self.encode(stripped)
        whole = self.encode(stripped + context[len(stripped) :] + text)
        if not stripped and len(first) == 0:
            start = self.bos_token_id if self.bos_token_id is not None else self.eos_token_id
            if start is None:
                raise RequestError("context: the model has no token for the beginning of a text", "context")
            return [start], whole
        return whole[: len(first)], whole[len(first) :]

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_variables: Any,
    ) -> str:
        """The text that a conversation becomes by the model's chat template."""
        body = self._chat(messages, add_generation_prompt, tools, template_variables)
        return cast(str, self._answer("/apply-template", body)["prompt"])

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The ids that a conversation becomes. What users wrote is no control token, whatever it spells."""
        body = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return cast(list[int], self._answer("/tokenize", body)["tokens"])

    def __len__(self) -> int:
        return cast(int, json.loads(self._core.info())["vocab_size"])

    @staticmethod
    def _chat(
        messages: Sequence[Mapping[str, Any]],
        opens: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": opens}
        if tools is not None:
            body["tools"] = list(tools)
        if variables:
            body["chat_template_kwargs"] = dict(variables)
        return body

    def _answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self._core.answer(path, options_of.dumps(body)) or "{}"))


def _whole_characters(text: str) -> str:
    """A text without halves of surrogate pairs, which no UTF-8 has: replacement characters take their place."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise ImportError("sessions return arrays of numpy, which is not installed: pip install bitnetc[numpy]") from error
    return numpy


class Session:
    """Logits after tokens: one sequence, which computes on the thread that asks."""

    def __init__(self, core: _bitnetc.Session) -> None:
        self._numpy = _numpy()
        self._core: _bitnetc.Session | None = core

    def feed(self, ids: Sequence[int], /) -> npt.NDArray[np.float32]:
        """Appends tokens and returns the logits after the last of them, of shape ``(vocab,)``."""
        return self._array(self._open.feed(options_of.tokens("ids", ids)), (self._open.vocab,))

    def score(self, ids: Sequence[int], /) -> npt.NDArray[np.float32]:
        """Appends tokens and returns the logits after each of them, of shape ``(n, vocab)``."""
        listed = options_of.tokens("ids", ids)
        return self._array(self._open.score(listed), (len(listed), self._open.vocab))

    def truncate(self, position: int, /) -> None:
        """Forgets all tokens from ``position`` on."""
        self._open.truncate(options_of.whole("position", position, 0, 2**32 - 1))

    @property
    def tokens(self) -> list[int]:
        """The tokens that were appended."""
        return self._open.tokens

    @property
    def position(self) -> int:
        """How many there are."""
        return len(self._open.tokens)

    @property
    def context(self) -> int:
        """How many there may be."""
        return self._open.context

    def close(self) -> None:
        """Gives back its memory."""
        self._core = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    @property
    def _open(self) -> _bitnetc.Session:
        if self._core is None:
            raise RequestError("the session is closed", code="closed")
        return self._core

    def _array(self, logits: bytearray, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return cast("npt.NDArray[np.float32]", self._numpy.frombuffer(logits, dtype="float32").reshape(shape))
