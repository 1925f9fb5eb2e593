"""Answers a file of requests on the nodes of a Ray cluster, one `bitnetc batch --shard i/n` per task.

    pip install ray
    python examples/ray_batch.py requests.jsonl answers --shards 8 --cpus 16 -- -m 2b-4t --temp 0 --seed 1

The input travels through Ray's object store and the answers come back to the driver, so the nodes need no common file system; a
model that is named by a path must be on all of them. Each shard becomes a file in the folder `answers`, written whole or not at all.

Every task is idempotent: it starts from the answers of its shard that exist already, and `bitnetc batch` keeps them or, if they belong to
other requests or settings, refuses. So Ray may run a task again after its node was lost, and the same command continues after the
driver was lost. Ray does not notice every loss: if no shard ends for `--time-limit` seconds, the remaining ones are submitted again.
"""
import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time

import ray
from ray.exceptions import RayError, RayTaskError


def answer_shard(name, requests, answers, shard, shards, options):
    """The answers of a shard, as bytes. `answers` are those that exist already."""
    with tempfile.TemporaryDirectory(prefix="bitnetc-") as folder:
        source = os.path.join(folder, name)
        target = os.path.join(folder, "answers.jsonl")
        with open(source, "wb") as file:
            file.write(requests)
        with open(target, "wb") as file:
            file.write(answers)
        command = ["bitnetc", "-q", "batch", source, "-o", target, "--shard", f"{shard}/{shards}", *options]
        libc = ctypes.CDLL(None)
        # PR_SET_PDEATHSIG: it ends with this process, also where that is killed because the task is cancelled.
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: libc.prctl(1, signal.SIGTERM))
        if result.returncode != 0:
            # The same command would fail on any node, so Ray must not try it again.
            raise RuntimeError(f"shard {shard}/{shards}: {result.stderr.strip()}")
        with open(target, "rb") as file:
            return file.read()


def read(path):
    """The bytes of a file; none if it does not exist."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def write_whole(path, content):
    """Writes a file that is complete or absent, whatever interrupts this."""
    with open(f"{path}.part", "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requests", help="a text file with one prompt per line, or a .jsonl file of requests")
    parser.add_argument("folder", help="where the answers are written, a file per shard")
    parser.add_argument("--shards", type=int, default=8, help="parts into which the requests are divided (default: 8)")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs and threads of a task (default: 1)")
    parser.add_argument("--retries", type=int, default=3, help="further attempts at a shard whose node is lost (default: 3)")
    parser.add_argument("--time-limit", type=float, default=3600, help="longest time in which no shard ends, in seconds (default: 3600)")
    parser.epilog = "Options of `bitnetc batch` follow after --."
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    args, options = parser.parse_args(words[:end]), words[end + 1:]
    ray.init(log_to_driver=False)
    task = ray.remote(num_cpus=args.cpus, max_retries=args.retries, scheduling_strategy="SPREAD")(answer_shard)
    requests = ray.put(read(args.requests))
    os.makedirs(args.folder, exist_ok=True)

    def path_of(shard):
        return os.path.join(args.folder, f"{shard}-of-{args.shards}.jsonl")

    def submit(shard):
        name = os.path.basename(args.requests)
        threads = ["-t", str(args.cpus)]
        return task.remote(name, requests, read(path_of(shard)), shard, args.shards, [*threads, *options])

    waiting = {submit(shard): shard for shard in range(1, args.shards + 1)}
    attempts, started = 1, time.monotonic()
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=args.time_limit)
        for result in done:
            shard = waiting.pop(result)
            try:
                write_whole(path_of(shard), ray.get(result))
            except RayTaskError as error:
                sys.exit(f"error: {error.cause}")
            except RayError as error:
                sys.exit(f"error: shard {shard}/{args.shards} was lost with its node more than {args.retries} times: {error}")
            print(f"shard {shard}/{args.shards}, after {time.monotonic() - started:.1f} s", flush=True)
        if not done:
            if attempts > args.retries:
                sys.exit(f"error: no shard has ended within {args.time_limit:g} s, {attempts} times")
            attempts += 1
            print(f"no shard has ended within {args.time_limit:g} s: submitting {len(waiting)} again", file=sys.stderr, flush=True)
            for result in waiting:
                ray.cancel(result, force=True)
            waiting = {submit(shard): shard for shard in waiting.values()}


if __name__ == "__main__":
    main()
