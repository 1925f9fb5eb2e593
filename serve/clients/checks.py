"""What the Python clients share: where the servers are, and checks that all run before the first failure is reported."""
import json
import os
import sys
import traceback

BASE = os.environ["BITNETC_URL"]
"""A server with the built-in model."""
TOOLS = os.environ["BITNETC_TOOLS_URL"]
"""The same with a chat template that shows tools."""

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "The weather in a city", "parameters": WEATHER}

checks = []


def check(function):
    """Registers a check; its name is that of the function."""
    checks.append(function)
    return function


def is_person(text):
    person = json.loads(text)
    assert set(person) == {"name", "age"} and isinstance(person["name"], str) and 0 <= person["age"] <= 150, person


def raises(kind, call):
    """The exception of this kind that a call must raise."""
    try:
        result = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}: {result!r}")


def main():
    failed = 0
    for function in checks:
        try:
            function()
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}", file=sys.stderr)
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    sys.exit(1 if failed else 0)
