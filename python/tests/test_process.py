"""Signals, forks, pickles, threads and memory."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import TIMEOUT

import bitnetc

ENDLESS = """
import bitnetc, sys
model = bitnetc.Model(context={context}, parallel=2, threads=1)
def ready():
    print("ready", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
    made = model.generate("A", max_tokens=2, temperature=0)
    print("goes on", len(made.tokens), model.metrics.running, flush=True)
"""

# Each takes far longer than a test waits.
CALLS = {
    "generate": "ready(); model.generate(['ROMEO:'] * 100000, max_tokens=200, ignore_eos=True)",
    "stream": "[ready() for at, _ in enumerate(model.stream('A', max_tokens=10**6, ignore_eos=True)) if at == 3] and "
    "[model.generate(['A'] * 100000, max_tokens=200, ignore_eos=True)]",
    "chat": "ready(); [model.chat([{'role': 'user', 'content': 'A'}], ignore_eos=True) for _ in range(10**6)]",
    "openai": "ready(); [model.openai('/v1/completions', {'prompt': 'A', 'ignore_eos': True}) for _ in range(10**6)]",
    "score": "ids = list(range(5, 250)); ready(); [model.session().score(ids) for _ in range(10**6)]",
    "loglikelihood": "ready(); model.loglikelihood_tokens([([1, at % 999, at // 999], [5] * 200) for at in range(10**5)])",
}


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_ends_what_is_waited_for_and_the_model_goes_on(start: Callable[..., Any], call: str) -> None:
    process = start(program=ENDLESS.format(context=256, call=CALLS[call]))
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=TIMEOUT)
    assert out.splitlines()[-2:] == ["interrupted", "goes on 2 0"] or out.splitlines()[-1].startswith("goes on 2"), errors
    assert process.returncode == 0 and errors == ""


def test_a_process_that_is_interrupted_says_so_as_python_does(start: Callable[..., Any]) -> None:
    program = "import bitnetc; m = bitnetc.Model(threads=1, context=256); print(1, flush=True); m.generate(['A'] * 10**6)"
    process = start(program=program)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == -signal.SIGINT and errors.rstrip().endswith("KeyboardInterrupt")


def test_a_forked_process_is_told_what_to_do(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, errors = run(
        program="""
import os, bitnetc
model = bitnetc.Model(context=128, threads=1)
session = model.session()
stream = model.stream("A", max_tokens=50)
child = os.fork()
if child == 0:
    for call in (lambda: model.generate("x"), lambda: session.feed([1]), lambda: next(stream), model.close,
                 lambda: model.loglikelihood([("a", "b")]), lambda: model.metrics):
        try:
            call()
        except RuntimeError as error:
            assert "Make the" in str(error) and "in the worker" in str(error) and "spawn" in str(error), error
        else:
            raise SystemExit("nothing was raised")
    # What needs no threads works, and a model of its own does.
    assert model.tokenizer.encode("a") and model.info.context == 128
    with bitnetc.Model(context=64, threads=1) as own:
        assert own.generate("A", max_tokens=2).tokens
    # Everything is dropped in the end, and nothing waits for threads that are not there.
    del model, session, stream
    print("child", flush=True)
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0
print(len(model.generate("A", max_tokens=2).tokens))
"""
    )
    assert (code, out) == (0, "child\n2\n"), errors


def made_by(model: bitnetc.Model, prompt: str) -> tuple[str, int]:
    return model.generate(prompt, max_tokens=8, temperature=0).text, os.getpid()


def test_models_are_pickled_by_reference(model: bitnetc.Model) -> None:
    data = pickle.dumps(model)
    assert len(data) < 1000
    first, second = pickle.loads(data), pickle.loads(data)
    assert first is second and first is not model and first.info == model.info
    assert made_by(first, "A")[0] == made_by(model, "A")[0]
    first.close()
    assert pickle.loads(data) is not first
    assert copy.copy(model) is model and copy.deepcopy([model])[0] is model


def test_workers_that_are_spawned_open_their_own(model: bitnetc.Model) -> None:
    expected = [made_by(model, prompt)[0] for prompt in ("A", "B", "C", "D")]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        made = pool.starmap(made_by, [(model, prompt) for prompt in ("A", "B", "C", "D")])
    assert [text for text, _ in made] == expected
    assert os.getpid() not in {process for _, process in made}


def test_workers_of_joblib_open_their_own(model: bitnetc.Model) -> None:
    joblib = pytest.importorskip("joblib")
    made = joblib.Parallel(n_jobs=2)(joblib.delayed(made_by)(model, prompt) for prompt in ("A", "B"))
    assert [text for text, _ in made] == [made_by(model, prompt)[0] for prompt in ("A", "B")]


PAIRS: dict[str, list[tuple[list[int], list[int]]]] = {
    "long texts": [([1, at % 999, at // 999], [5] * 200) for at in range(2000)],
    "one context": [([1, 2], [5])] * 300_000,
}


@pytest.mark.parametrize("kind", PAIRS)
def test_closing_a_model_ends_what_is_scored(kind: str) -> None:
    model = bitnetc.Model(context=256, parallel=1, threads=1)
    with ThreadPoolExecutor(1) as threads:
        scored = threads.submit(model._core.loglikelihood, PAIRS[kind])
        time.sleep(0.2)
        model.close()
        with pytest.raises(bitnetc.Error, match="closed"):
            scored.result()


def test_ctrl_c_ends_the_wait_for_another_thread(start: Callable[..., Any]) -> None:
    process = start(
        program="""
import bitnetc, os, threading
model = bitnetc.Model(context=256, threads=1)
# Far longer than the test waits.
session = model.session(context=100_000)
threading.Thread(target=session.feed, args=([5] * 100_000,), daemon=True).start()
try:
    print("ready", flush=True)
    while True:
        session.position
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)
"""
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out, errors) == (0, "interrupted\n", "")


def test_other_threads_run_meanwhile(model: bitnetc.Model) -> None:
    counted, ended = [0], threading.Event()

    def count() -> None:
        while not ended.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for call in (
            lambda: model.generate("A", max_tokens=100, ignore_eos=True),
            lambda: model.chat([{"role": "user", "content": "A"}], max_tokens=100, ignore_eos=True),
            lambda: model.session().score(list(range(5, 205))),
            lambda: model.loglikelihood_tokens([([1, 2], [5] * 200)]),
            lambda: model.explain(),
        ):
            # A machine that is busy may not run the thread for a while.
            before, tries = counted[0], 0
            while counted[0] - before < 1000:
                call()
                tries += 1
                assert tries < 100
    finally:
        ended.set()
        thread.join()


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_ten_thousand_texts_leak_nothing(model: bitnetc.Model) -> None:
    def texts(count: int) -> None:
        for at in range(count):
            model.generate("A", max_tokens=1, seed=at)

    texts(2000)
    before = resident()
    descriptors = len(os.listdir("/proc/self/fd"))
    texts(10_000)
    # 400 bytes a text would be 4 MB.
    assert resident() - before < 4_000_000
    # What other tests have left may be closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_nothing_is_printed(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, errors = run(
        program="""
import bitnetc
with bitnetc.Model(context=100_000, threads=1, parallel=1) as model:
    model.generate("A", max_tokens=2)
    try:
        bitnetc.Model("absent.gguf")
    except bitnetc.ModelError:
        pass
    assert model.info.notes
"""
    )
    assert (code, out, errors) == (0, "", "")
    code, out, errors = run(
        program="""
import bitnetc, logging
logging.basicConfig(level=logging.INFO)
bitnetc.Model(context=100_000, threads=1, parallel=1)
"""
    )
    assert code == 0 and out == "" and "INFO:bitnetc:shakespeare-5m: the context of 100000 tokens" in errors


def test_a_program_ends_while_texts_are_made(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, errors = run(
        program="""
import bitnetc
model = bitnetc.Model(context=256, threads=1)
stream = model.stream("A", max_tokens=200, ignore_eos=True)
print(len(next(stream).text) > 0)
"""
    )
    assert (code, out, errors) == (0, "True\n", "")
