"""Options of models and requests: their types, and how they are checked and written."""

from __future__ import annotations

import difflib
import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from . import _bitnetc
from ._errors import RequestError

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


class LoadOptions(TypedDict, total=False):
    """How a model is opened and run."""

    context: int | None
    """Tokens that each text has room for, prompt included (default: the model's own, as far as its caches take at most 2 GiB)."""
    parallel: int
    """Texts that are made at a time (default: 8)."""
    threads: int | None
    """Threads that compute (default: one for each core that the process may use)."""
    head: str | None
    """The language-model head: ``f16``, ``q8``, ``q6``, ``q4`` or ``screened`` (default: the plan's, or ``q8``)."""
    kv_type: str | None
    """Element type of the KV cache: ``f16`` or ``f32`` (default: the plan's, or ``f16``)."""
    weights: str | None
    """Packing of the ternary weights: ``2bit``, ``1.6bit`` or ``auto`` (default: the plan's, or ``auto``)."""
    codegen: str | None
    """The code generator: ``auto``, ``cranelift`` or ``x64``."""
    cpu_features: str | None
    """CPU features to use, such as ``avx2`` or ``native,-onestream`` (default: ``native``)."""
    mmap: bool
    """Whether the file is mapped, and not copied into memory (default: true)."""
    verify: bool
    """Whether the hash of a plan's weights is checked, which reads all of them (default: false)."""
    chat_template: str | None
    """The name of a built-in template, or the text of one (default: the model's own)."""
    name: str | None
    """The model's name in answers (default: that of its file)."""
    max_step_ms: int
    """Time of a step while texts are made, at most: how long a prompt delays the tokens of others (default: 250)."""
    cache_ram: int | None
    """Bytes of earlier prompts that are kept for others that begin alike (default: a tenth of the memory, at most 2 GiB)."""


class GenerateOptions(TypedDict, total=False):
    """How a text is made. docs/serving.md says what each option does; ``None`` is the same as no option."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    typical_p: float | None
    repeat_penalty: float | None
    repeat_last_n: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    mirostat: int | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    include_stop_str_in_output: bool | None
    ignore_eos: bool | None
    min_tokens: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    cache_prompt: bool | None
    cache_salt: str | None
    response_format: Mapping[str, Any] | None
    grammar: str | None
    json_schema: Mapping[str, Any] | str | None
    guided_choice: Sequence[str] | None
    guided_regex: str | None
    guided_json_object: bool | None
    structured_outputs: Mapping[str, Any] | None


class ChatOptions(GenerateOptions, total=False):
    """How a message is answered."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    reasoning_format: str | None
    reasoning_effort: str | None
    enable_thinking: bool | None
    chat_template_kwargs: Mapping[str, Any] | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None


LOAD = LoadOptions.__optional_keys__
GENERATE = GenerateOptions.__optional_keys__
CHATS = ChatOptions.__optional_keys__

# Fields of the server's requests that methods of their own stand for.
INSTEAD = {
    "n": "call it with a list, and with seeds of your choice",
    "best_of": "all texts are given back",
    "echo": "the prompt is yours",
    "stream": "use stream(), chat_stream() or openai_stream()",
    "stream_options": "the last piece has the usage",
    "model": "a Model is one model",
    "prompt": "it is the first argument",
    "messages": "it is the first argument",
    "max_completion_tokens": "use max_tokens",
    "top_logprobs": "logprobs takes the number",
    "id_slot": "the engine chooses",
    "return_token_ids": "completions have their tokens",
    "timings_per_token": "completions have their timings",
    "return_progress": "use openai_stream()",
    "format": "use json_schema",
    "grammar_lazy": "a form is followed from the beginning of the text",
    "guided_whitespace_pattern": "a form says where white space may stand",
    "structural_tag": "use a grammar with the tags in it",
    "extra_body": "options are given as they are",
}

# Names that users of other packages try for what opens a model.
LOAD_INSTEAD = {
    **dict.fromkeys(("path", "model", "model_path", "model_id", "filename"), "it is the first argument"),
    **dict.fromkeys(("n_ctx", "ctx_size", "max_model_len", "max_seq_len"), "use 'context'"),
    **dict.fromkeys(("n_threads", "num_threads"), "use 'threads'"),
    **dict.fromkeys(("n_parallel", "max_num_seqs"), "use 'parallel'"),
}


def check_names(
    function: str, path: str, known: frozenset[str], given: Iterable[str], instead: Mapping[str, str] = INSTEAD
) -> None:
    """Raises TypeError for an option that is not known, with the nearest one that is."""
    for name in given:
        if name in known:
            continue
        aliases = {alias: names[0] for names, *_ in _bitnetc.fields(path) for alias in names[1:]}
        if aliases.get(name) in known:
            advice = f"use {aliases[name]!r}"
        elif name in instead:
            advice = instead[name]
        else:
            names = sorted(known) + [alias for alias, name_of in aliases.items() if name_of in known]
            near = [aliases.get(each, each) for each in difflib.get_close_matches(name, names, n=1)]
            advice = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(sorted(known))}"
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}: {advice}")


def whole(name: str, value: Any, least: int, most: int) -> int:
    """The whole number that an option has."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}") from None
    if not least <= number <= most:
        raise RequestError(f"{name} must be a whole number from {least} to {most}", name)
    return number


def word(name: str, value: Any) -> str:
    """The string that an option has."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
    return value


def load_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model, checked and with their defaults."""
    check_names("Model", "", LOAD, options, LOAD_INSTEAD)
    given = {name: value for name, value in options.items() if value is not None}

    def number(name: str, least: int, most: int, default: int | None) -> int | None:
        return whole(name, given[name], least, most) if name in given else default

    checked: dict[str, Any] = {
        "context": number("context", 1, 2**32 - 1, None),
        "parallel": number("parallel", 1, 4096, 8),
        "threads": number("threads", 1, 1024, None),
        "max_step_ms": number("max_step_ms", 1, 60_000, 250),
        "cache_ram": number("cache_ram", 0, 2**63 - 1, None),
        "mmap": _flag("mmap", given.get("mmap", True)),
        "verify": _flag("verify", given.get("verify", False)),
    }
    for name in ("head", "kv_type", "weights", "codegen", "cpu_features", "chat_template", "name"):
        checked[name] = word(name, given[name]) if name in given else None
    return checked


def model_path(path: Any) -> str | None:
    """The path or name of a model. That of a file is absolute, so that it means the same elsewhere."""
    if path is None:
        return None
    text = os.fsdecode(os.fspath(path))
    if "\0" in text:
        raise RequestError("path: a path cannot have a null character", "path")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise RequestError(f"path: {error}", "path") from None
    return os.path.abspath(text) if os.path.exists(text) else text


def _plain(value: Any) -> Any:
    """What JSON can say of a value of another package."""
    for method in ("tolist", "model_dump", "to_dict"):
        convert = getattr(value, method, None)
        if callable(convert) and not isinstance(value, type):
            return convert()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"a request cannot hold a value of type {type(value).__name__}")


def dumps(body: Mapping[str, Any]) -> bytes:
    """The JSON of a request."""
    try:
        return json.dumps(body, allow_nan=False, default=_plain).encode()
    except RecursionError:
        raise RequestError("the request is nested too deeply", code="invalid_json") from None
    except (TypeError, ValueError) as error:
        name = next((name for name, value in body.items() if isinstance(name, str) and not _is_json(value)), None)
        where = "the request" if name is None else name
        if isinstance(error, TypeError):
            raise TypeError(f"{where}: {error}") from None
        raise RequestError(f"{where} cannot be written as JSON: {error}", name, "invalid_json") from None


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        return False
    return True


def is_tokens(prompt: Any) -> bool:
    """Whether something that is no string is a prompt of token ids."""
    try:
        operator.index(prompt[0])
    except TypeError:
        return False
    return not isinstance(prompt[0], bool)


def prompts(prompt: Any) -> tuple[list[Any], bool]:
    """The prompts, and whether there was only one, which was not in a list."""
    if isinstance(prompt, str):
        return [prompt], True
    if isinstance(prompt, (bytes, bytearray, Mapping)) or not isinstance(prompt, Iterable):
        kinds = "a string, a list of token ids, or a list of either"
        raise TypeError(f"a prompt must be {kinds}, not {type(prompt).__name__}")
    listed = list(prompt)
    if not listed:
        return [], False
    if is_tokens(listed):
        return [tokens("prompt", listed)], True
    return [each if isinstance(each, str) else tokens("prompt", each) for each in listed], False


def tokens(name: str, ids: Any) -> list[int]:
    """Token ids."""
    if isinstance(ids, (str, bytes, bytearray)) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} must be token ids, not {type(ids).__name__}")
    return [whole(name, each, 0, 2**32 - 1) for each in ids]


def pairs(listed: Any) -> list[tuple[Any, Any]]:
    """Pairs of a context and a text."""
    made = []
    for pair in listed if isinstance(listed, Iterable) and not isinstance(listed, (str, bytes, Mapping)) else [None]:
        if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise TypeError("loglikelihood takes a list of pairs: [(context, text), …]")
        made.append((pair[0], pair[1]))
    return made


def generate_body(function: str, prompt: Any, options: Mapping[str, Any], **more: Any) -> bytes:
    """A request for ``/v1/completions``."""
    check_names(function, COMPLETIONS, GENERATE, options)
    return dumps({"prompt": prompt, **options, **more})


def chat_body(function: str, messages: Any, options: Mapping[str, Any], **more: Any) -> bytes:
    """A request for ``/v1/chat/completions``."""
    check_names(function, CHAT, CHATS, options)
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise TypeError(f"messages must be a list of messages, not {type(messages).__name__}")
    body = {"messages": list(messages), **options, **more}
    # There it is two fields.
    if (count := body.pop("logprobs", None)) is not None:
        body.update(logprobs=True, top_logprobs=count)
    return dumps(body)
