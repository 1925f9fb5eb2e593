"""Frames of pandas and polars, neither of which is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from ._batch import BatchMap
from ._model import Model

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._options import ChatOptions

Frame = TypeVar("Frame")


def map_frame(
    frame: Frame, column: str, /, model: Model, *, into: str = "completion", **options: Unpack[ChatOptions]
) -> Frame:
    """A frame of pandas or polars with the texts for a column as new columns: see :class:`BatchMap`."""
    made_by: Any = frame
    if not hasattr(frame, "with_columns") and not hasattr(frame, "assign"):
        raise TypeError(f"map_frame() takes a frame of pandas or polars, not {type(frame).__name__}")
    if not isinstance(model, Model):
        raise TypeError(f"map_frame() takes a Model, not {type(model).__name__}: bitnetc.Model(…) opens one")
    values = made_by[column]
    if hasattr(values, "notna"):
        # pandas has several values for what is missing, which depend on the column's type.
        values = values.astype(object).where(values.notna(), None)
    columns = BatchMap(model, column, into, options).columns(values.to_list())
    if hasattr(frame, "with_columns"):
        return cast(Frame, made_by.with_columns([type(values)(name, new) for name, new in columns.items()]))
    return cast(Frame, made_by.assign(**columns))
