"""bitnetc: ternary (BitNet b1.58) language models on CPUs.

    import bitnetc

    model = bitnetc.Model()  # or Model("model.gguf"), Model("hf:org/repo")
    print(model.generate("ROMEO:", max_tokens=32).text)

docs/python.md is the guide.
"""

from __future__ import annotations

from ._batch import BatchMap
from ._bitnetc import __version__
from ._errors import Cancelled, ContextLengthError, Error, ModelError, RequestError
from ._frames import map_frame
from ._model import Model
from ._options import ChatOptions, GenerateOptions, LoadOptions
from ._session import Session, Tokenizer
from ._types import (
    Completion,
    Explanation,
    FinishReason,
    Memory,
    Metrics,
    ModelInfo,
    Piece,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)

__all__ = [
    "BatchMap",
    "Cancelled",
    "ChatOptions",
    "Completion",
    "ContextLengthError",
    "Error",
    "Explanation",
    "FinishReason",
    "GenerateOptions",
    "LoadOptions",
    "Memory",
    "Metrics",
    "Model",
    "ModelError",
    "ModelInfo",
    "Piece",
    "RequestError",
    "Session",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "TopLogprob",
    "Usage",
    "__version__",
    "map_frame",
]
