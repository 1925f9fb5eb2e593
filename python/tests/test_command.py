"""The command that the package brings."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT

import bitnetc


def test_the_command_is_the_command(model: bitnetc.Model, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, errors = run("-m", "bitnetc", "-q", "run", "-p", "ROMEO:", "-n", "8", "--temp", "0")
    assert (code, errors) == (0, "")
    assert out.strip() == ("ROMEO:" + model.generate("ROMEO:", max_tokens=8, temperature=0).text).strip()
    code, out, _ = run("-m", "bitnetc", "--version")
    assert code == 0 and bitnetc.__version__ in out
    code, out, errors = run("-m", "bitnetc", "run", "--no-such-option")
    assert (code, out) == (2, "") and "--no-such-option" in errors
    code, out, errors = run("-m", "bitnetc", "run", "absent.gguf", "-p", "x")
    assert code != 0 and out == "" and errors.startswith("error: ")


def test_it_is_a_script_of_the_package() -> None:
    script = Path(sys.executable).with_name("bitnetc")
    if not script.exists():
        pytest.skip("the package is not installed beside this Python")
    made = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert bitnetc.__version__ in made.stdout
    # It takes part in pipes as any command does.
    head = shutil.which("head")
    if head:
        both = f"{script} -q tokenize --help | {head} -n 1"
        piped = subprocess.run(both, shell=True, capture_output=True, text=True, check=True, timeout=TIMEOUT)
        assert piped.stdout and piped.stderr == ""


def test_ctrl_c_ends_it_as_it_ends_the_command(start: Callable[..., Any]) -> None:
    process = start("-m", "bitnetc", "-q", "run", "-p", "ROMEO:", "-n", "1000000", "--ignore-eos", "-c", "4096")
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130 and "Traceback" not in errors


def test_it_calls_itself_for_measurements(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, errors = run("-m", "bitnetc", "-q", "bench", "startup", "-r", "1")
    assert code == 0 and "load plan to first token" in out, errors
