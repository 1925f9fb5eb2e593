"""datasets, pandas, polars, and the class for Ray."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

import bitnetc
import bitnetc.ray

OPTIONS: dict[str, Any] = {"max_tokens": 5, "temperature": 0}
PROMPTS = ["ROMEO:", "JULIET:", "O, "]


@pytest.fixture(scope="module")
def expected(model: bitnetc.Model) -> list[str]:
    return [made.text for made in model.generate(PROMPTS, **OPTIONS)]


def test_columns_are_texts_with_how_they_ended(model: bitnetc.Model, expected: list[str]) -> None:
    batch = {"prompt": [*PROMPTS, None, float("nan")], "other": [1, 2, 3, 4, 5]}
    columns = model.batch_map("prompt", **OPTIONS)(batch)
    assert columns == {
        "completion": [*expected, None, None],
        "completion_finish_reason": ["length"] * 3 + [None] * 2,
        "completion_tokens": [5] * 3 + [None] * 2,
    }
    again = pickle.loads(pickle.dumps(model.batch_map("prompt", into="text", **OPTIONS)))
    assert again({"prompt": PROMPTS})["text"] == expected
    chats = [[{"role": "user", "content": "Good morrow"}]]
    answered = model.batch_map("chat", **OPTIONS)({"chat": chats})
    assert answered["completion"] == [model.chat(chats[0], **OPTIONS).text]
    ids = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    assert model.batch_map("ids", **OPTIONS)({"ids": ids})["completion"] == expected
    assert model.batch_map("prompt")({"prompt": []}) == {name: [] for name in columns}
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        model.batch_map("prompt", temprature=0)  # type: ignore[call-arg]


def test_frames_of_pandas(model: bitnetc.Model, expected: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": [*PROMPTS, None], "n": range(4)}, index=list("dcba"))
    made = bitnetc.map_frame(frame, "prompt", model, into="text", **OPTIONS)
    assert list(made["text"])[:3] == expected and list(made["n"]) == list(range(4)) and list(made.index) == list("dcba")
    assert "text" not in frame.columns and pandas.isna(made["text"].iloc[3])
    # Whatever stands for what is missing.
    for values in (pandas.array([*PROMPTS, None], dtype="string"), [*PROMPTS, pandas.NaT], [*PROMPTS, float("nan")]):
        made = bitnetc.map_frame(pandas.DataFrame({"prompt": values}), "prompt", model, into="text", **OPTIONS)
        assert list(made["text"])[:3] == expected and pandas.isna(made["text"].iloc[3])
    with pytest.raises(TypeError, match="column 'n' has a value of type int: expected a text"):
        bitnetc.map_frame(frame, "n", model)
    with pytest.raises(TypeError, match="takes a Model, not str"):
        bitnetc.map_frame(frame, "prompt", "model.gguf")  # type: ignore[arg-type]


def test_frames_of_polars(model: bitnetc.Model, expected: list[str]) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"prompt": [*PROMPTS, None], "n": range(4)})
    made = bitnetc.map_frame(frame, "prompt", model, **OPTIONS)
    assert made["completion"].to_list() == [*expected, None] and made["completion_tokens"].to_list() == [5, 5, 5, None]


def test_what_is_no_frame_is_said(model: bitnetc.Model) -> None:
    with pytest.raises(TypeError, match="pandas or polars"):
        bitnetc.map_frame({"prompt": PROMPTS}, "prompt", model)


def test_datasets_in_this_process_and_in_others(model: bitnetc.Model, expected: list[str], tmp_path: Any) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"prompt": PROMPTS})
    mapped = data.map(model.batch_map("prompt", **OPTIONS), batched=True, load_from_cache_file=False)
    assert mapped["completion"][:] == expected and mapped["prompt"][:] == PROMPTS
    mapped = data.map(model.batch_map("prompt", **OPTIONS), batched=True, num_proc=2, load_from_cache_file=False)
    assert mapped["completion"][:] == expected


def test_the_class_for_ray_maps_batches(expected: list[str]) -> None:
    generator = bitnetc.ray.Generator(load={"context": 256, "threads": 1}, options={"max_tokens": 5, "temperature": 0})
    made = generator({"prompt": PROMPTS, "n": [1, 2, 3]})
    assert made["completion"] == expected and made["n"] == [1, 2, 3]
    numpy = pytest.importorskip("numpy")
    assert generator({"prompt": numpy.array(PROMPTS)})["completion"] == expected


def test_nothing_is_imported_that_is_not_used() -> None:
    program = "import bitnetc, bitnetc.ray, sys; print({'numpy', 'pandas', 'polars', 'ray', 'datasets'} & set(sys.modules))"
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert made.stdout == "set()\n"
