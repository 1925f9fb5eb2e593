"""Jinja2 with the settings of transformers (`apply_chat_template`), within limits of time and memory.

    python jinja2.py IN.json OUT.json

reads a list of cases `{"template": …, "variables": …}` and writes them with what Jinja2 makes of them: `"text"`, or
`"error"` with the class of the exception. Cases that reach a limit are left out. Needs `jinja2` only.
"""

import datetime
import json
import os
import resource
import signal
import sys
import warnings

sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != os.path.dirname(os.path.abspath(__file__))]

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


class Generation(jinja2.ext.Extension):
    """The tag of transformers that marks what is trained on, as a call block."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


class Refused(Exception):
    pass


def raise_exception(message):
    raise Refused(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda format: NOW.strftime(format)


class Limit(BaseException):
    pass


def stop(*_):
    raise Limit()


def rendered(template, variables):
    """The case with its result, or none if a limit is reached."""
    case = {"template": template, "variables": variables}
    signal.alarm(10)
    try:
        case["text"] = environment.from_string(template).render(**variables)
        case["text"].encode("utf-8")
        if " at 0x" in case["text"]:
            return None
    except (Limit, MemoryError, RecursionError):
        return None
    except Exception as error:
        case.pop("text", None)
        case["error"] = type(error).__name__
        case["message"] = str(error)[:100]
    finally:
        signal.alarm(0)
    return case


warnings.simplefilter("ignore")
signal.signal(signal.SIGALRM, stop)
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    done = [case for case in (rendered(case["template"], case["variables"]) for case in cases) if case]
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in done) + "\n]\n")
    print(len(cases), "cases,", len(done), "ended,", sum("error" in case for case in done), "with an error")


if __name__ == "__main__":
    main()
