"""Texts, conversations and their options."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import shares_steps

import bitnetc
from bitnetc import _bitnetc, _options

PROMPTS = ["ROMEO:", "JULIET:", "First Citizen:", "O, ", "What news", "The king", "To be", "KING HENRY:"]
CHAT = [{"role": "user", "content": "Good morrow"}]


def key(completion: bitnetc.Completion) -> tuple[Any, ...]:
    """What must not depend on what else is made."""
    return completion.text, completion.tokens, completion.logprobs, completion.finish_reason, completion.seed


def test_a_text_is_that_of_its_seed(model: bitnetc.Model) -> None:
    first = model.generate("ROMEO:", max_tokens=12, seed=7)
    assert key(first) == key(model.generate("ROMEO:", max_tokens=12, seed=7))
    assert first.text != model.generate("ROMEO:", max_tokens=12, seed=8).text
    assert (first.seed, first.finish_reason, first.ended_by) == (7, "length", "limit")
    assert first.usage.completion_tokens == len(first.tokens) == 12
    assert first.usage.prompt_tokens == len(model.tokenizer.encode("ROMEO:"))
    assert first.logprobs is None and first.prompt_logprobs is None and first.message is None
    # A seed that was not given is named.
    free = model.generate("ROMEO:", max_tokens=12)
    assert model.generate("ROMEO:", max_tokens=12, seed=free.seed).text == free.text
    assert str(first) == first.text and "finish_reason='length'" in repr(first)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.text = ""  # type: ignore[misc]
    assert json.loads(json.dumps(first.to_dict()))["usage"]["completion_tokens"] == 12


def test_lists_and_threads_give_the_texts_of_single_requests_and_are_made_together(model: bitnetc.Model) -> None:
    options: dict[str, Any] = {"max_tokens": 24, "seed": 11, "logprobs": 3, "cache_prompt": False}
    alone = [key(model.generate(prompt, **options)) for prompt in PROMPTS]

    def listed() -> None:
        assert [key(made) for made in model.generate(PROMPTS, **options)] == alone

    def threaded() -> None:
        made = threads.map(lambda prompt: key(model.generate(prompt, **options)), PROMPTS * 2)
        assert list(made) == alone * 2

    assert shares_steps(model, listed)
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        assert shares_steps(model, threaded)


def test_prompts_are_texts_or_tokens(model: bitnetc.Model) -> None:
    ids = model.tokenizer.encode("ROMEO:")
    expected = model.generate("ROMEO:", max_tokens=6, temperature=0)
    assert model.generate(ids, max_tokens=6, temperature=0).text == expected.text
    rows = pytest.importorskip("numpy").array([ids, ids])
    assert model.generate(rows[0], max_tokens=6, temperature=0).text == expected.text
    assert [each.text for each in model.generate(rows, max_tokens=6, temperature=0)] == [expected.text] * 2
    listed = model.generate([ids, "ROMEO:"], max_tokens=6, temperature=0)
    assert [each.text for each in listed] == [expected.text] * 2
    assert model.generate([], max_tokens=6) == []
    assert [each.text for each in model.generate(("ROMEO:",), max_tokens=6, temperature=0)] == [expected.text]


def test_long_lists_keep_their_order(model: bitnetc.Model) -> None:
    prompts = [f"{number}:" for number in range(60)]
    made = model.generate(prompts, max_tokens=2, temperature=0)
    assert [each.text for each in made] == [model.generate(each, max_tokens=2, temperature=0).text for each in prompts]


def test_streams_joined_are_the_text(model: bitnetc.Model) -> None:
    options: dict[str, Any] = {"max_tokens": 30, "seed": 5, "logprobs": 2, "stop": ["\n\n"]}
    whole = model.generate("First Citizen:", **options)
    pieces = list(model.stream("First Citizen:", **options))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert sum((piece.tokens for piece in pieces), ()) == whole.tokens
    assert sum((piece.logprobs or () for piece in pieces), ()) == whole.logprobs
    end = pieces[-1].completion
    assert end is not None and key(end) == key(whole)
    assert all(piece.completion is None for piece in pieces[:-1])


def test_a_stream_that_is_left_ends_its_text(model: bitnetc.Model) -> None:
    stream = model.stream("ROMEO:", max_tokens=200, ignore_eos=True)
    next(stream)
    stream.close()
    del stream
    model.stream("ROMEO:", max_tokens=200, ignore_eos=True)
    # The engine notices within a step.
    for _ in range(1000):
        if model.metrics.running == 0:
            break
        model.generate("A", max_tokens=1)
    assert model.metrics.running == 0


def test_what_ends_a_text_is_said(model: bitnetc.Model) -> None:
    text = model.generate("ROMEO:", max_tokens=20, seed=3).text
    stop = text[8:11]
    ended = model.generate("ROMEO:", max_tokens=20, seed=3, stop=["never", stop])
    assert ended.text == text[: text.index(stop)]
    assert (ended.finish_reason, ended.ended_by, ended.stop_reason) == ("stop", "stop_string", stop)
    token = ended.tokens[0]
    ended = model.generate("ROMEO:", max_tokens=20, seed=3, stop_token_ids=[token])
    assert (ended.text, ended.ended_by, ended.stop_reason) == ("", "stop_token", token)
    assert model.generate("ROMEO:", max_tokens=0).tokens == ()


def test_probabilities_are_those_of_the_logits(model: bitnetc.Model) -> None:
    made = model.generate("ROMEO:", max_tokens=4, temperature=0, logprobs=2, prompt_logprobs=1)
    assert made.logprobs is not None and made.prompt_logprobs is not None
    assert [scored.id for scored in made.logprobs] == list(made.tokens)
    assert "".join(scored.text for scored in made.logprobs) == made.text
    for scored in made.logprobs:
        assert len(scored.top) == 2 and scored.top[0].id == scored.id and scored.top[0].logprob == scored.logprob < 0
    assert len(made.prompt_logprobs) == made.usage.prompt_tokens - 1


def test_forms_are_followed(model: bitnetc.Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}
    schema["additionalProperties"] = False
    made = model.generate("{", max_tokens=40, seed=1, json_schema=schema)
    assert set(json.loads(made.text)) == {"n"} and made.finish_reason == "stop"
    assert model.generate("A colour:", guided_choice=["red", "green"], max_tokens=9).text in ("red", "green")
    with pytest.raises(bitnetc.RequestError) as refused:
        model.generate("x", grammar="root ::= (")
    assert refused.value.param == "grammar"


def test_a_chat_is_its_stream(model: bitnetc.Model) -> None:
    answer = model.chat(CHAT, max_tokens=16, seed=2, logprobs=1)
    assert answer.message == {**answer.message, "role": "assistant", "content": answer.text}  # type: ignore[dict-item]
    assert answer.logprobs is not None and len(answer.logprobs) == len(answer.tokens) == 16
    pieces = list(model.chat_stream(CHAT, max_tokens=16, seed=2, logprobs=1))
    assert "".join(piece.text for piece in pieces) == answer.text
    end = pieces[-1].completion
    assert end is not None and key(end) == key(answer)
    assert end.message is not None and end.message["content"] == answer.text
    following = [*CHAT, answer.message, {"role": "user", "content": "And then?"}]
    assert model.chat(following, max_tokens=4).usage.prompt_tokens > answer.usage.prompt_tokens  # type: ignore[arg-type]


def test_tools_are_called(model: bitnetc.Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    schema["additionalProperties"] = False
    tools = [{"type": "function", "function": {"name": "roll", "parameters": schema}}]
    with bitnetc.Model(context=512, threads=1, parallel=1, chat_template="hermes") as other:
        chosen = {"type": "function", "function": {"name": "roll"}}
        options: dict[str, Any] = {"tools": tools, "tool_choice": chosen, "max_tokens": 100, "seed": 3}
        answer = other.chat(CHAT, **options)
        assert answer.finish_reason == "tool_calls" and answer.message is not None
        call = answer.message["tool_calls"][0]["function"]
        assert call["name"] == "roll" and json.loads(call["arguments"])["n"] <= 9
        end = list(other.chat_stream(CHAT, **options))[-1].completion
        assert end is not None and end.finish_reason == "tool_calls" and end.message is not None
        assert end.message["tool_calls"][0]["function"] == call


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("temprature", "did you mean 'temperature'?"),
        ("n_predict", "use 'max_tokens'"),
        ("repetition_penalty", "use 'repeat_penalty'"),
        ("n", "call it with a list"),
        ("stream", "use stream()"),
        ("zzzzzz", "the options are"),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest(model: bitnetc.Model, name: str, advice: str) -> None:
    calls: list[Callable[..., Any]] = [model.generate, model.stream, model.chat, model.chat_stream]
    for call in calls:
        argument: Any = CHAT if "chat" in call.__name__ else "x"
        with pytest.raises(TypeError) as refused:
            call(argument, **{name: 1})
        assert call.__name__ in str(refused.value) and name in str(refused.value) and advice in str(refused.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("paralel", "did you mean 'parallel'"), ("model_path", "it is the first argument"), ("n_ctx", "use 'context'")],
)
def test_an_unknown_option_of_a_model_is_named_with_the_nearest(name: str, advice: str) -> None:
    options: dict[str, Any] = {name: 4}
    with pytest.raises(TypeError, match=f"{name!r}: {advice}"):
        bitnetc.Model(**options)


def test_the_options_are_fields_of_the_server() -> None:
    for path, known in ((_options.COMPLETIONS, _options.GENERATE), (_options.CHAT, _options.CHATS)):
        names = {names[0] for names, *_ in _bitnetc.fields(path)}
        forms = {alias for names, *_ in _bitnetc.fields(path) for alias in names}
        assert known <= forms, known - forms
        # What is neither an option nor said to be something else would be forgotten.
        left = {name for name in names if name not in known and name not in _options.INSTEAD}
        assert not left, left


HOSTILE: list[tuple[Any, dict[str, Any], type[Exception]]] = [
    (None, {}, TypeError),
    (5, {}, TypeError),
    (b"bytes", {}, TypeError),
    ({"a": 1}, {}, TypeError),
    ([None], {}, TypeError),
    ([[]], {}, bitnetc.RequestError),
    ([1.5], {}, TypeError),
    ([True], {}, TypeError),
    ([-1], {}, bitnetc.RequestError),
    ([2**40], {}, bitnetc.RequestError),
    ([2**32 - 1], {}, bitnetc.RequestError),
    (["a", 3], {}, TypeError),
    ("x", {"max_tokens": -5}, bitnetc.RequestError),
    ("x", {"max_tokens": "many"}, bitnetc.RequestError),
    ("x", {"max_tokens": 10**5000}, bitnetc.RequestError),
    ("x", {"temperature": float("nan")}, bitnetc.RequestError),
    ("x", {"temperature": float("inf")}, bitnetc.RequestError),
    ("x", {"temperature": object()}, TypeError),
    ("x", {"top_p": -1}, bitnetc.RequestError),
    ("x", {"seed": 2**70}, bitnetc.RequestError),
    ("x", {"logprobs": 21}, bitnetc.RequestError),
    ("x", {"stop": 7}, bitnetc.RequestError),
    ("x", {"stop": ["a"] * 100}, bitnetc.RequestError),
    ("x", {"logit_bias": {10**9: 1}}, bitnetc.RequestError),
    ("x", {"stop_token_ids": [2**33]}, bitnetc.RequestError),
    ("x", {"json_schema": {"type": "nonsense"}}, bitnetc.RequestError),
    ("x", {"guided_regex": "("}, bitnetc.RequestError),
    ("x" * 5000, {}, bitnetc.ContextLengthError),
    ([1] * 300, {}, bitnetc.ContextLengthError),
]


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_hostile_arguments_raise_typed_errors(model: bitnetc.Model, case: int) -> None:
    prompt, options, error = HOSTILE[case]
    with pytest.raises(error):
        model.generate(prompt, **options)
    # Nothing has suffered.
    assert model.generate("A", max_tokens=1, temperature=0).tokens


def test_strange_texts_are_texts(model: bitnetc.Model) -> None:
    for prompt in ("\0", "\ud800 half", "\N{GRINNING FACE}\r\n", "\ufeff", "a\u0301" * 20):
        assert len(model.generate(prompt, max_tokens=2).tokens) <= 2
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(bitnetc.RequestError):
        model.chat([{"role": "user", "content": nested}])
    for messages in ("text", b"bytes", 3, {"role": "user"}):
        with pytest.raises(TypeError):
            model.chat(messages)  # type: ignore[arg-type]
    for wrong in ([], [{}], [{"role": "user"}], ["text"], [{"role": 3, "content": "x"}]):
        with pytest.raises(bitnetc.RequestError):
            model.chat(wrong)  # type: ignore[arg-type]


def test_options_that_are_no_json_are_named(model: bitnetc.Model) -> None:
    with pytest.raises(TypeError, match="stop: a request cannot hold a value of type set"):
        model.generate("x", seed=1, stop={"a"})  # type: ignore[arg-type]
    with pytest.raises(bitnetc.RequestError, match="temperature cannot be written as JSON") as refused:
        model.generate("x", seed=1, temperature=float("nan"))
    assert refused.value.param == "temperature"


def test_errors_say_what_is_wrong(model: bitnetc.Model) -> None:
    with pytest.raises(ValueError) as refused:
        model.generate("x", top_p=-1)
    assert isinstance(refused.value, bitnetc.RequestError) and isinstance(refused.value, bitnetc.Error)
    assert (refused.value.param, refused.value.code, refused.value.status) == ("top_p", "invalid_value", 400)
    with pytest.raises(bitnetc.ContextLengthError) as long:
        model.generate([1] * 300)
    assert (long.value.prompt_tokens, long.value.context, long.value.param) == (300, 256, "prompt")
    for error in (refused.value, long.value):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    "options",
    [
        {"context": 0},
        {"context": -1},
        {"context": 2**40},
        {"parallel": 0},
        {"threads": 5000},
        {"head": "q9"},
        {"kv_type": "f8"},
        {"weights": "3bit"},
        {"codegen": "magic"},
        {"cpu_features": "warp"},
        {"chat_template": "no-such-template"},
        {"chat_template": "{% for %}"},
    ],
)
def test_options_of_models_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(bitnetc.RequestError) as refused:
        bitnetc.Model(**options)
    assert refused.value.param == next(iter(options))


@pytest.mark.parametrize("options", [{"context": "256"}, {"context": 2.5}, {"parallel": True}, {"head": 8}, {"mmap": 1}])
def test_options_of_models_have_kinds(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        bitnetc.Model(**options)


def test_what_is_no_model_is_said(tmp_path: Any) -> None:
    with pytest.raises(bitnetc.ModelError, match="No such file"):
        bitnetc.Model(tmp_path / "absent.gguf")
    (tmp_path / "wrong.gguf").write_bytes(b"<html>not found</html>")
    with pytest.raises(bitnetc.ModelError, match="HTML"):
        bitnetc.Model(tmp_path / "wrong.gguf")
    with pytest.raises(bitnetc.ModelError, match="invalid model name"):
        bitnetc.Model("hf:nothing")
    for wrong in (3, b"\0", ["a"], "\ud800.gguf"):
        with pytest.raises((TypeError, bitnetc.RequestError)):
            bitnetc.Model(wrong)  # type: ignore[arg-type]


def test_a_closed_model_says_so() -> None:
    model = bitnetc.Model(context=128, parallel=1, threads=1)
    stream = model.stream("ROMEO:", max_tokens=100, ignore_eos=True)
    next(stream)
    model.close()
    model.close()
    with pytest.raises(bitnetc.Cancelled):
        list(stream)
    for call in (lambda: model.generate("x"), model.session, lambda: model.loglikelihood([("a", "b")])):
        with pytest.raises(bitnetc.Error, match="closed"):
            call()
    # What needs no engine is still known.
    assert model.tokenizer.encode("a") and model.info.vocab_size > 0 and model.closed
