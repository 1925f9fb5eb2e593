"""Logits, scores, tokens, and what was compiled."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitnetc

np = pytest.importorskip("numpy")

TEXT = "To be, or not to be, that is the question"


def test_logits_are_those_of_the_command(
    model: bitnetc.Model, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    ids = model.tokenizer.encode(TEXT, parse_special=False)
    code, _, errors = run("-m", "bitnetc", "logits", "--text", TEXT, "-o", tmp_path / "logits.npy")
    assert code == 0, errors
    expected = np.load(tmp_path / "logits.npy")
    with model.session(context=64) as session:
        scored = session.score(ids)
        assert scored.dtype == np.float32 and scored.shape == (len(ids), model.info.vocab_size)
        assert scored.tobytes() == expected.tobytes()
        # One by one, and from the middle on.
        session.truncate(3)
        assert session.tokens == ids[:3]
        for at, token in enumerate(ids[3:], start=3):
            assert session.feed([token]).tobytes() == expected[at].tobytes()
        assert session.position == len(ids) and session.context == 64
        session.truncate(0)
        assert session.feed(ids).tobytes() == expected[-1].tobytes()


def test_logits_are_arrays_of_their_own(model: bitnetc.Model) -> None:
    session = model.session(context=64)
    first = session.feed([1])
    copy = first.copy()
    session.feed([2])
    assert (first == copy).all()
    first += 1
    assert first.flags.writeable


@pytest.mark.parametrize("ids", [[], [10**6], [1] * 65, "text", [1.5], [-1], None])
def test_what_a_session_refuses_changes_nothing(model: bitnetc.Model, ids: Any) -> None:
    session = model.session(context=64)
    expected = session.feed([1, 2]).copy()
    for call in (session.feed, session.score):
        with pytest.raises((bitnetc.RequestError, TypeError)):
            call(ids)
    assert session.tokens == [1, 2]
    session.truncate(1)
    assert (session.feed([2]) == expected).all()
    session.close()
    with pytest.raises(bitnetc.RequestError, match="closed"):
        session.feed([1])


def test_scores_are_those_of_prompts(model: bitnetc.Model) -> None:
    pairs = [("To be, or not", " to be"), ("To be, or not", " Rome"), ("To be", ""), ("", "ROMEO"), ("The king ", "said")]
    scored = model.loglikelihood(pairs)
    for (context, text), (total, greedy) in zip(pairs, scored, strict=True):
        first, second = model.tokenizer.encode_pair(context, text)
        if not second:
            assert (total, greedy) == (0.0, True)
            continue
        made = model.generate(first + second, max_tokens=0, prompt_logprobs=1)
        assert made.prompt_logprobs is not None
        places = made.prompt_logprobs[len(first) - 1 :]
        expected = 0.0
        for place in places:
            expected += place.logprob
        assert total == expected, "the same bits"
        assert greedy == all(place.top[0].id == place.id for place in places)
    assert scored[0][0] > scored[1][0]
    # In another order, and by logits.
    assert model.loglikelihood(pairs[::-1]) == scored[::-1]
    first, second = model.tokenizer.encode_pair(*pairs[0])
    logits = model.session().score(first + second)[len(first) - 1 : -1].astype(np.float64)
    logsum = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    by_hand = (logits[range(len(second)), second] - logsum).sum()
    assert math.isclose(scored[0][0], by_hand, rel_tol=1e-9)


def test_scores_refuse_what_cannot_be(model: bitnetc.Model) -> None:
    with pytest.raises(bitnetc.ContextLengthError):
        model.loglikelihood_tokens([([1] * 300, [2])])
    with pytest.raises(bitnetc.RequestError):
        model.loglikelihood_tokens([([1], [10**6])])
    with pytest.raises(bitnetc.RequestError):
        model.loglikelihood_tokens([([], [1])])
    with pytest.raises(TypeError):
        model.loglikelihood_tokens([("a", "b")])  # type: ignore[list-item]
    wrong: list[Any] = ["ab", ["ab"], [("a",)], [("a", "b", "c")], None, {"a": "b"}, 3]
    for call in (model.loglikelihood, model.loglikelihood_tokens):
        for pairs in wrong:
            with pytest.raises(TypeError, match="list of pairs"):
                call(pairs)
    with pytest.raises(TypeError, match="two strings, not int and str"):
        model.loglikelihood([(1, "a")])  # type: ignore[list-item]
    assert model.loglikelihood_tokens([]) == []


def test_tokens_are_texts(model: bitnetc.Model) -> None:
    tokenizer = model.tokenizer
    for text in (TEXT, "", "naïve \N{SNOWMAN}\n\n", "\ud800"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == tokenizer.decode(ids)
    assert len(tokenizer) == model.info.vocab_size
    with pytest.raises(bitnetc.RequestError):
        tokenizer.decode([10**6])
    with pytest.raises(TypeError):
        tokenizer.encode(3)  # type: ignore[arg-type]


def test_conversations_are_prompts(model: bitnetc.Model) -> None:
    messages = [{"role": "user", "content": "Good morrow"}]
    text = model.tokenizer.apply_chat_template(messages)
    assert "Good morrow" in text
    assert len(text) > len(model.tokenizer.apply_chat_template(messages, add_generation_prompt=False))
    ids = model.tokenizer.encode_chat(messages)
    assert model.generate(ids, max_tokens=8, seed=1).text == model.chat(messages, max_tokens=8, seed=1).text
    with pytest.raises(bitnetc.RequestError):
        model.tokenizer.apply_chat_template([])


def test_the_ir_is_that_of_the_command(model: bitnetc.Model, run: Callable[..., tuple[int, str, str]]) -> None:
    code, printed, errors = run("-m", "bitnetc", "-q", "ir", "dump", "--stage", "imported")
    assert code == 0, errors
    assert model.ir("imported") == printed
    decode = model.ir("planned", "decode")
    assert "@decode" in decode and "@prefill" not in decode and "@prefill" in model.ir()
    for arguments in (("nowhere",), ("planned", "nothing")):
        with pytest.raises(bitnetc.RequestError, match="expected"):
            model.ir(*arguments)
    with pytest.raises(TypeError, match="stage must be a string"):
        model.ir(None)  # type: ignore[arg-type]


def test_the_explanation_is_that_of_the_command(
    model: bitnetc.Model, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, printed, errors = run("-m", "bitnetc", "-q", "explain", "--json", "-d", "5", "-t", "1")
    assert code == 0, errors
    explained = model.explain(depth=5)
    assert explained.to_dict() == json.loads(printed)
    assert explained["schema"].startswith("bitnetc.explain/") and len(explained["entries"]) == 3
    page = explained._repr_html_()
    assert page.startswith("<iframe srcdoc=") and "&lt;script" in page and "<script" not in page


def test_a_model_knows_itself(model: bitnetc.Model) -> None:
    info, memory = model.info, model.memory
    assert (info.context, info.parallel, info.threads, info.name) == (256, 4, 1, "shakespeare-5m")
    assert 4e6 < info.parameters < 7e6 and info.head == "q8" and len(info.source_hash) == 64
    assert memory.sequences == 4 * memory.sequence > 0 and memory.weights > 0
    assert memory.resident is None or memory.resident > memory.weights
    assert repr(model) == "<bitnetc.Model 'shakespeare-5m': context 256, parallel 4>"


def test_models_are_opened_as_they_are_asked_for(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    plan = tmp_path / "small.plan"
    gguf = Path(__file__).parents[2] / "models/shakespeare/shakespeare-5m-i2_s.gguf"
    code, _, errors = run("-m", "bitnetc", "-q", "compile", gguf, "-o", plan, "--head", "q4")
    assert code == 0, errors
    with bitnetc.Model(plan, context=64, threads=1, name="bard", verify=True) as model:
        assert (model.info.name, model.info.head) == ("bard", "q4")
        planned = model.generate("ROMEO:", max_tokens=8, temperature=0).text
    with bitnetc.Model(gguf, context=64, threads=1, head="q4", mmap=False, kv_type="f16", weights="1.6bit") as model:
        assert (model.info.name, model.info.head) == ("shakespeare-5m-i2_s", "q4")
        assert model.generate("ROMEO:", max_tokens=8, temperature=0).text == planned
    with pytest.raises(bitnetc.ModelError, match="head"):
        bitnetc.Model(plan, head="q8")
