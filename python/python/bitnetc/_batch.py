"""Columns of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _options as options_of
from ._options import CHAT
from ._requests import Request

if TYPE_CHECKING:
    from ._model import Model


class BatchMap:
    """Makes the texts of a column of a batch, which is a dict of columns, and returns them as new columns.

    A value is a prompt, or the messages of a chat; ``None`` stays ``None``. The columns are ``into`` (the text),
    ``into + "_finish_reason"`` and ``into + "_tokens"`` (how many were made). It can be pickled: the model is opened where it is used.
    """

    def __init__(self, model: Model, column: str, into: str, options: Mapping[str, Any]) -> None:
        known = options_of.CHATS
        options_of.check_names("batch_map", CHAT, known, options)
        self.model = model
        self.column = column
        self.into = into
        self.options = dict(options)

    def __call__(self, batch: Mapping[str, Any], /) -> dict[str, list[Any]]:
        return self.columns(batch[self.column])

    def columns(self, values: Iterable[Any], /) -> dict[str, list[Any]]:
        """The new columns for the values of the column."""
        listed = [None if _is_missing(value) else value for value in values]
        made = iter(self.model._complete_all(self._request(value) for value in listed if value is not None))
        ends = [None if value is None else next(made) for value in listed]
        return {
            self.into: [end and end.text for end in ends],
            f"{self.into}_finish_reason": [end and end.finish_reason for end in ends],
            f"{self.into}_tokens": [end and len(end.tokens) for end in ends],
        }

    def _request(self, value: Any) -> Request:
        if isinstance(value, str):
            return self.model._text("batch_map", value, self.options)
        if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
            expected = "expected a text, token ids or the messages of a chat"
            raise TypeError(f"column {self.column!r} has a value of type {type(value).__name__}: {expected}")
        listed = list(value)
        if listed and options_of.is_tokens(listed):
            return self.model._text("batch_map", options_of.tokens("prompt", listed), self.options)
        return self.model._conversation("batch_map", listed, self.options)


def _is_missing(value: Any) -> bool:
    """Whether a value is none: ``None``, or the NaN that frames have in its place."""
    return value is None or (isinstance(value, float) and value != value)
