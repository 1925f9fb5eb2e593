"""Fixtures: one small model for most tests, and programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bitnetc

# Longer than anything takes on a machine that is busy elsewhere; a test that needs it has failed.
TIMEOUT = 600


@pytest.fixture(scope="session")
def model() -> Iterator[bitnetc.Model]:
    with bitnetc.Model(context=256, parallel=4, threads=1) as opened:
        yield opened


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python with a program or with words. What still runs at the end of the test is killed."""
    started = []

    def start(*words: str | Path, program: str | None = None, **options: Any) -> subprocess.Popen[str]:
        given = ["-c", program] if program is not None else [str(word) for word in words]
        process = subprocess.Popen(
            [sys.executable, "-u", *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "BITNETC_THREADS": "1"},
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Runs Python to its end: exit code, standard output, standard error."""

    def run(*words: str | Path, program: str | None = None) -> tuple[int, str, str]:
        process = start(*words, program=program)
        out, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, out, errors

    return run


def shares_steps(model: bitnetc.Model, make: Callable[[], object]) -> bool:
    """Whether texts share steps when they are asked for together: at some time, since a busy machine may bring them one by one."""
    for _ in range(20):
        before = model.metrics
        make()
        after = model.metrics
        if after.steps - before.steps < (after.completion_tokens - before.completion_tokens) * 3 / 4:
            return True
    return False
