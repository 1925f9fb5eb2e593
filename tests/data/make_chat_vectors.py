"""Renders the chat templates of src/chat/templates and of this folder with Jinja2 under the settings of transformers
(`apply_chat_template`) and records the texts: chat_vectors.json. Needs `jinja2` only.

    python make_chat_vectors.py
"""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parent
NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


class Refused(Exception):
    pass


def raise_exception(message):
    raise Refused(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda format: NOW.strftime(format)

weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city, e.g. \"Köln\" <now>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
        },
    },
}
clock = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


call = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "t": 1.0}}}
conversations = {
    "one question": [message("user", "Hello, who are you?")],
    "system": [message("system", "  You are a pirate.\n"), message("user", "Hi")],
    "three turns": [
        message("user", "What is 2 + 2?"),
        message("assistant", "4"),
        message("user", " And 3 + 3? "),
        message("assistant", "\n6 \n"),
        message("user", "Thanks"),
    ],
    "system and turns": [
        message("system", "Be brief."),
        message("user", "One"),
        message("assistant", "Two"),
        message("user", "Three"),
    ],
    "answered": [message("user", "Say yes"), message("assistant", "yes")],
    "unicode": [
        message("user", "Grüße 😀 日本語\u3000…\u00a0\t\"quoted\" 'it\\'s' {{ not }} {% a %} <b>&amp;</b>"),
        message("assistant", "العربية\n\n\u200dé\u0301"),
        message("user", "line one\r\nline two\n"),
    ],
    "empty": [message("user", "")],
    "thinking": [
        message("user", "Why?"),
        message("assistant", "<think>\nlet me see\n</think>\n\nBecause."),
        message("user", "Sure?"),
    ],
    "tool answer": [
        message("user", "Weather in Zürich?"),
        message("assistant", "", tool_calls=[call]),
        message("tool", "{\"sky\": \"clear\", \"°C\": 21}", tool_call_id="call00001"),
        message("assistant", "Clear, 21 °C."),
        message("user", "Nice"),
    ],
    "two systems": [message("system", "A"), message("user", "B"), message("system", "C"), message("user", "D")],
}
tokens = [
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    {"bos_token": "<s>", "eos_token": "</s>"},
]

cases = []
folders = [HERE.parent.parent / "src/chat/templates", HERE / "chat_templates"]
for path in sorted(path for folder in folders for path in folder.glob("*.jinja")):
    template = environment.from_string(path.read_text(encoding="utf-8"))
    special = tokens[len(cases) % 2]
    for name, messages in conversations.items():
        for prompt, tools, extra in [
            (True, None, {}),
            (False, None, {}),
            (True, [weather, clock], {}),
            (True, None, {"enable_thinking": False}),
        ]:
            if extra and path.stem != "qwen3" or tools and name not in ("tool answer", "system"):
                continue
            case = {
                "template": path.stem,
                "conversation": name,
                "messages": messages,
                "tools": tools,
                "add_generation_prompt": prompt,
                "variables": extra,
                **special,
            }
            try:
                case["text"] = template.render(
                    messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, **special, **extra
                )
            except Refused as error:
                case["refused"] = str(error)
            except jinja2.exceptions.UndefinedError as error:
                case["refused"] = ""
            cases.append(case)

with open(HERE / "chat_vectors.json", "w", encoding="utf-8") as out:
    json.dump({"now": NOW.isoformat(), "cases": cases}, out, ensure_ascii=False, indent=1)
    out.write("\n")
print(len(cases), "cases,", sum("refused" in case for case in cases), "refused")
