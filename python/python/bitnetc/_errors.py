"""The errors of the package. The native module raises them too."""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """Something failed. All other errors of the package are of this class."""


class ModelError(Error):
    """A model cannot be opened: no such file, a damaged one, or one that is not supported."""


class RequestError(Error, ValueError):
    """A request, or an option of a model, asks for something that it cannot have.

    ``param`` is the option at fault, ``code`` a word for programs, ``status`` what the HTTP server would answer with.
    """

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.param, self.code, self.status)


class ContextLengthError(RequestError):
    """A prompt is longer than the context. ``prompt_tokens`` is its length at least, ``context`` the room that there is."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str = "context_length_exceeded",
        status: int = 400,
        prompt_tokens: int = 0,
        context: int = 0,
    ) -> None:
        super().__init__(message, param, code, status)
        self.prompt_tokens = prompt_tokens
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.param, self.code, self.status, self.prompt_tokens, self.context)


class Cancelled(Error):
    """A text was ended from elsewhere, for example because its model was closed."""
