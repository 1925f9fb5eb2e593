"""Batches on the machines of a Ray cluster.

    import bitnetc.ray, ray

    prompts = ray.data.read_json("prompts.jsonl")
    texts = prompts.map_batches(
        bitnetc.ray.Generator,
        fn_constructor_kwargs={"model": "model.plan", "column": "prompt", "options": {"max_tokens": 64}},
        concurrency=2,
        num_cpus=8,
        batch_size=64,
    )

Each actor opens the model once, and computes with as many threads as it has CPUs of Ray's: ``num_cpus``. ray itself is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ._model import Model
from ._options import ChatOptions, LoadOptions


def _with_threads(load: LoadOptions) -> LoadOptions:
    """The options, with as many threads as Ray has reserved CPUs for this process."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return load
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    return {"threads": int(cpus), **load} if cpus >= 1 else load


class Generator:
    """A class for ``ray.data.Dataset.map_batches``: adds the texts for a column to each batch, as :class:`bitnetc.BatchMap` does.

    ``model`` is what :class:`bitnetc.Model` opens, ``load`` its options, ``options`` those of the texts.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        column: str = "prompt",
        into: str = "completion",
        load: LoadOptions | None = None,
        options: ChatOptions | None = None,
    ) -> None:
        self.model = Model(model, **_with_threads(load or {}))
        self._map = self.model.batch_map(column, into=into, **(options or {}))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {**batch, **self._map(batch)}
