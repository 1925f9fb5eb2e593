"""Types: the stub against the module, and the package itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bitnetc

PROJECT = Path(__file__).parents[1]


def checked(*words: str) -> None:
    pytest.importorskip("mypy")
    made = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=PROJECT)
    assert made.returncode == 0, made.stdout + made.stderr


def test_the_stub_is_the_module() -> None:
    checked("mypy.stubtest", "bitnetc._bitnetc", "--mypy-config-file", "pyproject.toml")


def test_the_package_is_typed() -> None:
    checked("mypy", "--config-file", "pyproject.toml")
    assert (Path(bitnetc.__file__).parent / "py.typed").exists()


def test_users_see_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import bitnetc

model = bitnetc.Model("a.gguf", context=1)
one: bitnetc.Completion = model.generate("a", max_tokens=1)
many: list[bitnetc.Completion] = model.generate(["a"], max_tokens=1) + model.generate(["a", [1, 2]])
model.generate("a", temprature=1)
stream = model.stream("a")
stream.close()
reveal_type(next(stream).text)
"""
    )
    pytest.importorskip("mypy")
    made = subprocess.run([sys.executable, "-m", "mypy", "--strict", program], capture_output=True, text=True, cwd=tmp_path)
    lines = made.stdout.splitlines()
    assert 'Revealed type is "builtins.str"' in lines[-2] or 'Revealed type is "str"' in lines[-2], made.stdout
    wrong = [line for line in lines if ": error:" in line]
    assert "temprature" in wrong[0] and all(line.startswith("program.py:7:") for line in wrong), made.stdout
