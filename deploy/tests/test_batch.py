"""Shards of a batch: the script for Slurm with each task of its array, and GNU parallel. Together they are what one process gives."""
import json
import os
import subprocess

from support import BITNETC, DEPLOY, ROOT, Case, bitnetc, clean_environment, read, tool

SHARDS = 3
OPTIONS = ["--temp", "0.8", "--seed", "7", "-n", "12"]


def write_requests(folder, count=11):
    """A file of prompts, some of which are longer than others."""
    path = os.path.join(folder, "requests.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join(f"Scene {number}. {'Enter the king. ' * (number % 4)}ROMEO:\n" for number in range(count)))
    return path


def results(*paths):
    """What is answered to each request, without what no two runs share: the ids of the answer, and when it was made."""
    found = {}
    for path in paths:
        for line in read(path).splitlines():
            result = json.loads(line)
            assert result["custom_id"] not in found, f"{result['custom_id']} is answered twice"
            assert result["error"] is None, result
            body = {name: value for name, value in result["response"]["body"].items() if name not in ("id", "created")}
            found[result["custom_id"]] = json.dumps(body, sort_keys=True)
    return found


def by_one_process(folder, requests, *options):
    """The results of one process without shards."""
    path = os.path.join(folder, "alone.jsonl")
    bitnetc("-q", "batch", requests, "-o", path, "-t", "1", *OPTIONS, *options)
    return results(path)


def path_with_bitnetc(folder):
    """A PATH where `bitnetc` is the binary that is tested."""
    programs = os.path.join(folder, "bin")
    os.mkdir(programs)
    os.symlink(BITNETC, os.path.join(programs, "bitnetc"))
    return f"{programs}:{os.environ['PATH']}"


class Shards(Case):
    def setUp(self):
        self.place = self.folder()
        self.requests = write_requests(self.place)
        self.expected = by_one_process(self.place, self.requests)
        self.assertEqual(len(self.expected), 11)
        self.environment = clean_environment(PATH=path_with_bitnetc(self.place))
        self.answers = os.path.join(self.place, "answers")

    def check(self, paths):
        self.assertEqual(results(*paths), self.expected)

    def test_tasks_of_a_slurm_array(self):
        script = os.path.join(DEPLOY, "slurm", "batch.sbatch")

        def task(number):
            variables = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_CPUS_PER_TASK": "1"}
            command = ["bash", script, str(SHARDS), self.requests, self.answers, *OPTIONS]
            return subprocess.run(command, env={**self.environment, **variables}, capture_output=True, text=True)

        paths = [os.path.join(self.answers, f"{number}-of-{SHARDS}.jsonl") for number in range(1, SHARDS + 1)]
        for number in range(1, SHARDS + 1):
            self.assertEqual(task(number).returncode, 0)
        self.check(paths)
        # A task that is put back into the queue continues: the last line of its answers was not complete.
        whole = read(paths[1])
        with open(paths[1], "w", encoding="utf-8") as file:
            file.write(whole[:-20])
        again = task(2)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn("1 left", again.stderr)
        self.check(paths)
        usage = subprocess.run(["bash", script, str(SHARDS), self.requests, self.answers], env=self.environment, capture_output=True, text=True)
        self.assertEqual((usage.returncode, usage.stderr[:6]), (2, "usage:"))

    def test_the_line_for_gnu_parallel(self):
        parallel = tool("parallel")
        version = subprocess.run([parallel, "--version"], capture_output=True, text=True).stdout
        if "GNU parallel" not in version:
            self.skipTest("this parallel is not GNU's")
        line = next(line for line in read(ROOT, "docs", "scaling.md").splitlines() if line.startswith("parallel "))
        # The line as it stands, with this test's files, number of shards and options.
        for documented, own in (
            ("requests.jsonl", self.requests),
            ("answers/", f"{self.answers}/"),
            ("/8", f"/{SHARDS}"),
            ("-of-8", f"-of-{SHARDS}"),
            ("$(seq 8)", " ".join(str(number) for number in range(1, SHARDS + 1))),
            ("-m 2b-4t --temp 0", " ".join(OPTIONS)),
        ):
            self.assertIn(documented, line)
            line = line.replace(documented, own)
        os.mkdir(self.answers)
        done = subprocess.run(["bash", "-c", line], env=self.environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check([os.path.join(self.answers, name) for name in os.listdir(self.answers) if name.endswith(".jsonl")])
