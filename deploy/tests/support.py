"""What the tests share: where things are, servers that end with their test, and requests."""
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEPLOY = os.path.join(ROOT, "deploy")
BITNETC = os.environ["BITNETC"]
"""The binary."""
ENVIRONMENTS = os.environ["SCALE_ENVIRONMENTS"]
"""The folder of the Python environments that `.ci/scale` makes."""
WAIT = 600
"""Seconds after which something that does not come is an error."""


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def tool(*names):
    """The path of a program; the test is skipped where it is not installed."""
    for name in names:
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if found:
            return found
    raise unittest.SkipTest(f"{names[0]} is not installed")


def environment_python(name):
    """The interpreter of an environment; the test is skipped where there is none."""
    python = os.path.join(ENVIRONMENTS, name, "bin", "python")
    if not os.path.exists(python):
        raise unittest.SkipTest(f"the Python environment {name} is not installed: .ci/scale does that")
    return python


def needs_root():
    if os.geteuid() != 0:
        raise unittest.SkipTest("this user is not root")


def free_port():
    """A port that nobody has, and that the system gives to nobody who does not ask for it."""
    first_of_others = int(read("/proc/sys/net/ipv4/ip_local_port_range").split()[0])
    while True:
        port = random.randrange(10_000, max(first_of_others, 20_000))
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(condition, what):
    """Waits until a condition gives something true, and returns it."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {WAIT} s")


def clean_environment(**variables):
    """The environment without what would change the binary's options."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BITNETC_")}
    return {**kept, "BITNETC_CONFIG": "", **variables}


def bitnetc(*arguments):
    """The standard output of a command that must succeed."""
    result = subprocess.run([BITNETC, *arguments], env=clean_environment(), capture_output=True, text=True, timeout=10 * WAIT)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return result.stdout


class Case(unittest.TestCase):
    def folder(self):
        """A folder that is removed at the end of the test."""
        folder = tempfile.mkdtemp(prefix="bitnetc-scale-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def start(self, command, end=signal.SIGKILL, **options):
        """A process that is ended by a signal at the end of the test."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        self.addCleanup(self.end, process, end)
        return process

    @staticmethod
    def end(process, how):
        process.send_signal(how)
        try:
            process.wait(timeout=WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def replica(self, *options, port=0):
        return Replica(self, *options, port=port)


class Replica:
    """A server with the built-in model."""

    def __init__(self, case, *options, port=0):
        self.log = os.path.join(case.folder(), "log")
        command = [BITNETC, "serve", "--port", str(port), "-t", "1", "-c", "512", "--parallel", "4", *options]
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = case.start(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=log, text=True)
        # The address is printed when the model is loaded.
        self.address = self.process.stdout.readline().strip().split("://")[-1]
        assert self.address, read(self.log)
        self.port = int(self.address.rsplit(":", 1)[1])

    def drain(self):
        self.process.send_signal(signal.SIGTERM)

    def answered(self):
        """Number of requests for texts that this server has answered with 200; needs --log-requests json."""
        lines = [json.loads(line) for line in read(self.log).splitlines() if line.startswith("{")]
        return sum(line["status"] == 200 and line["path"].startswith("/v1/completions") for line in lines)


def body_of(number, **fields):
    """The body of a request, different for each number."""
    body = {"prompt": f"Scene {number}.\n\nROMEO:", "max_tokens": 24, "temperature": 0.8, "seed": number, "ignore_eos": True}
    return {**body, **fields}


def authorization(key):
    return {"authorization": f"Bearer {key}"} if key else {}


def ask(port, body, key=None, **headers):
    """Status and body of an answer in one piece."""
    status, content, _ = ask_with_headers(port, body, **authorization(key), **headers)
    return status, content


def ask_with_headers(port, body, **headers):
    """As `ask`, and the headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def get(port, path, key=None):
    """Status and body of what is at a path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    try:
        connection.request("GET", path, headers=authorization(key))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def text_of(content):
    return json.loads(content)["choices"][0]["text"]


def stream(port, body):
    """The text of a stream. Raises where it is not complete."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    try:
        connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"{answer.status}: {answer.read()!r}")
        text, finish = "", None
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                assert finish is not None, "the stream has no finish_reason"
                return text
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["text"]
                finish = choice["finish_reason"] or finish
        raise AssertionError("the stream ends without [DONE]")
    finally:
        connection.close()


def while_held(port, meanwhile):
    """Calls `meanwhile` while a server has a request that does not end: its stream is larger than all buffers on its way, and not read."""
    body = body_of(1, max_tokens=4000, logprobs=20, n=8, stream=True)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.readline()
        meanwhile()
    finally:
        connection.close()


class Load:
    """Clients that each ask one request after the other, until they are told to stop."""

    def __init__(self, port, clients, send=None):
        self.port, self.send = port, send or self.in_one_piece
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.next, self.asking, self.texts, self.failures = 0, set(), {}, []
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def in_one_piece(port, body):
        status, content = ask(port, body)
        assert status == 200, f"{status}: {content!r}"
        return text_of(content)

    def run(self):
        while not self.stopping.is_set():
            with self.lock:
                number = self.next
                self.next += 1
                self.asking.add(number)
            try:
                text = self.send(self.port, body_of(number))
            except Exception as error:
                with self.lock:
                    self.failures.append((number, repr(error)))
            else:
                with self.lock:
                    self.texts[number] = text
            with self.lock:
                self.asking.discard(number)

    def under_way(self):
        with self.lock:
            return set(self.asking)

    def done(self):
        with self.lock:
            return len(self.texts) + len(self.failures)

    def more(self, count):
        """Waits until that many more requests are done."""
        target = self.done() + count
        until(lambda: self.done() >= target, f"{count} more requests")

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
