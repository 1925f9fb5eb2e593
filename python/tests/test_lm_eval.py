"""lm-eval through the class, through the server, and by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitnetc

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")

QUESTIONS = [
    {"question": "To be, or not to", "choices": [" be", " king", " the", " Rome"], "answer": 0},
    {"question": "To be, or not to", "choices": [" sword", " be"], "answer": 1},
    {"question": "My lord, what is the", "choices": [" matter", " zebra", " news"], "answer": 0},
    {"question": "Good morrow,", "choices": [" cousin", " sir", " of"], "answer": 1},
]
TEXTS = [{"text": "ROMEO:\nBut soft, what light through yonder window breaks?"}, {"text": "The king is dead. " * 30}]

CHOICE = """
task: bard_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
ROLLING = """
task: bard_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""
UNTIL = """
task: bard_until
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "x"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for name, rows, task in (
        ("choice", QUESTIONS, CHOICE),
        ("rolling", TEXTS, ROLLING),
        ("until", QUESTIONS, UNTIL),
    ):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / f"{name}.yaml").write_text(task.format(file=data))
    return tmp_path


def evaluated(model: Any, tasks: Path, names: list[str], **more: Any) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    made = lm_eval.simple_evaluate(model=model, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0, **more)
    assert made is not None
    return dict(made)


def answers(result: dict[str, Any], task: str) -> list[Any]:
    """The raw answers to the requests of a task, by document."""
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["resps"] for sample in samples]


def test_numbers_are_those_by_hand(model: bitnetc.Model, tasks: Path, start: Callable[..., Any]) -> None:
    import bitnetc.lm_eval

    subject = bitnetc.lm_eval.BitnetcLM(model=model)
    result = evaluated(subject, tasks, ["bard_choice", "bard_rolling", "bard_until"])

    right = 0
    for row, responses in zip(QUESTIONS, answers(result, "bard_choice"), strict=True):
        context = model.tokenizer.encode(row["question"], add_special_tokens=False)
        scored = []
        for choice, response in zip(row["choices"], responses, strict=True):  # type: ignore[arg-type]
            whole = model.tokenizer.encode(row["question"] + choice, add_special_tokens=False)  # type: ignore[operator]
            made = model.generate(whole, max_tokens=0, prompt_logprobs=1)
            assert made.prompt_logprobs is not None
            places = made.prompt_logprobs[len(context) - 1 :]
            expected = sum(place.logprob for place in places)
            assert math.isclose(float(response[0][0]), expected, rel_tol=1e-12)
            scored.append(expected)
        right += scored.index(max(scored)) == row["answer"]
    assert result["results"]["bard_choice"]["acc,none"] == right / len(QUESTIONS)

    # Our own perplexity, of a text that one window holds.
    ids = [subject.prefix_token_id, *model.tokenizer.encode(TEXTS[0]["text"], add_special_tokens=False)]
    made = model.generate(ids, max_tokens=0, prompt_logprobs=0)
    assert made.prompt_logprobs is not None and len(ids) < model.info.context
    first = answers(result, "bard_rolling")[0]
    while isinstance(first, list):
        first = first[0]
    assert math.isclose(float(first), sum(place.logprob for place in made.prompt_logprobs), rel_tol=1e-12)

    for row, responses in zip(QUESTIONS, answers(result, "bard_until"), strict=True):
        ids = model.tokenizer.encode(row["question"], add_special_tokens=False)  # type: ignore[arg-type]
        assert responses[0][0] == model.generate(ids, max_tokens=8, temperature=0, stop=["\n"]).text

    # Through the server, lm-eval's class for OpenAI's completions.
    pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")
    process = start("-m", "bitnetc", "-q", "serve", "--port", "0", "-c", "256", "--parallel", "4")
    url = process.stdout.readline().strip()
    arguments = f"model=shakespeare-5m,base_url={url}/v1/completions,tokenizer_backend=remote,max_length=256,num_concurrent=1"
    served = evaluated("local-completions", tasks, ["bard_choice"], model_args=arguments)
    assert served["results"]["bard_choice"]["acc,none"] == result["results"]["bard_choice"]["acc,none"]
    for ours, theirs in zip(answers(result, "bard_choice"), answers(served, "bard_choice"), strict=True):
        for (mine, *_), (other, *_) in zip(ours, theirs, strict=True):
            assert math.isclose(float(mine[0]), float(other[0]), rel_tol=1e-12) and str(mine[1]) == str(other[1])


def test_it_is_a_command(tasks: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    words = ["-m", "bitnetc.lm_eval", "--model_args", "context=256,threads=1", "--tasks", "bard_choice"]
    code, out, errors = run(*words, "--include_path", tasks, "--output_path", tasks / "out")
    assert code == 0 and "bard_choice" in out, errors
