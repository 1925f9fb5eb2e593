"""The examples for Ray. Two nodes are two network namespaces that a pair of interfaces connects; the second one is killed while it computes."""
import json
import os
import signal
import subprocess

from support import BITNETC, ROOT, WAIT, Case, Load, ask, body_of, clean_environment, environment_python, free_port, get, needs_root, read, stream, text_of, tool, until
from test_batch import OPTIONS, by_one_process, path_with_bitnetc, results, write_requests

SHARDS = 6
# Long enough that the second node is killed with work under way.
LONGER = ["-n", "400"]
VARIABLES = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "RAY_USAGE_STATS_ENABLED": "0"}
LIMITS = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]


DATA_SET = """
import json, os, ray, bitnetc.ray

class Named(bitnetc.ray.Generator):
    def __call__(self, batch):
        return {**super().__call__(batch), "process": [os.getpid()] * len(batch["prompt"])}

# One CPU for each actor, and some for the tasks of Ray Data itself.
ray.init(num_cpus=4, include_dashboard=False)
rows = ray.data.from_items([{"prompt": f"Scene {number}. ROMEO:"} for number in range(12)]).repartition(6)
texts = rows.map_batches(
    Named,
    fn_constructor_kwargs={"options": {"max_tokens": 12, "temperature": 0}},
    concurrency=2,
    num_cpus=1,
    batch_size=2,
)
for row in texts.take_all():
    print(json.dumps(row))
"""


class Network:
    """Two namespaces with an address each. Nothing outside of them is reached."""

    def __init__(self, case):
        needs_root()
        ip, pid = tool("ip"), os.getpid()
        self.names = [f"bitnetc-{pid}-a", f"bitnetc-{pid}-b"]
        # Of a network that exists nowhere else.
        self.addresses = ["192.0.2.1", "192.0.2.2"]
        self.links = [f"bn{pid}a", f"bn{pid}b"]

        def run(*words):
            return subprocess.run([ip, *words], capture_output=True, text=True)

        for name in self.names:
            if run("netns", "add", name).returncode != 0:
                case.skipTest("this system gives no network namespaces")
            case.addCleanup(run, "netns", "delete", name)
        steps = [["link", "add", self.links[0], "netns", self.names[0], "type", "veth", "peer", "name", self.links[1], "netns", self.names[1]]]
        for name, address, link in zip(self.names, self.addresses, self.links):
            steps += [["-n", name, "address", "add", f"{address}/24", "dev", link]]
            steps += [["-n", name, "link", "set", each, "up"] for each in (link, "lo")]
        for step in steps:
            made = run(*step)
            assert made.returncode == 0, f"{step}: {made.stderr}"

    def inside(self, node, *words):
        return [tool("ip"), "netns", "exec", self.names[node], *words]

    def processes(self, node):
        """Ids of the processes of a node."""
        listed = subprocess.run([tool("ip"), "netns", "pids", self.names[node]], capture_output=True, text=True).stdout
        return [int(pid) for pid in listed.split()]

    def cut(self, node):
        """Takes the interface of a node down."""
        subprocess.run([tool("ip"), "-n", self.names[node], "link", "set", self.links[node], "down"], check=True)

    def kill(self, node):
        """All processes of a node at once, as when its power fails."""
        for pid in self.processes(node):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def computes(pid):
    """Whether a process is `bitnetc batch`."""
    try:
        return "batch" in read("/proc", str(pid), "cmdline").split("\0")
    except OSError:
        return False


class Ray(Case):
    def setUp(self):
        self.python = environment_python("ray")
        self.place = self.folder()
        programs = os.path.dirname(self.python)
        # Ray keeps the address of the last cluster there: a folder of the test's own, so that nothing finds it later.
        self.environment = clean_environment(**VARIABLES, RAY_TMPDIR=self.place, PATH=f"{programs}:{path_with_bitnetc(self.place)}")

    def nodes(self):
        """A cluster of two nodes with a CPU each."""
        network = Network(self)
        ray = os.path.join(os.path.dirname(self.python), "ray")
        head, port = network.addresses[0], "6399"
        for node in (0, 1):
            self.addCleanup(network.kill, node)
        first = ["start", "--head", f"--node-ip-address={head}", f"--port={port}", "--include-dashboard=false"]
        second = ["start", f"--address={head}:{port}", f"--node-ip-address={network.addresses[1]}"]
        for node, words in enumerate((first, second)):
            started = subprocess.run(network.inside(node, ray, *words, *LIMITS), env=self.environment, capture_output=True, text=True, timeout=WAIT)
            self.assertEqual(started.returncode, 0, started.stdout + started.stderr)
        self.environment["RAY_ADDRESS"] = f"{head}:{port}"
        return network

    def batch(self, requests, answers, *own):
        """The command of the example."""
        script = os.path.join(ROOT, "examples", "ray_batch.py")
        return [self.python, script, requests, answers, "--shards", str(SHARDS), *own, "--", *OPTIONS, *LONGER]

    def test_a_batch_on_two_nodes_of_which_one_is_killed(self):
        network = self.nodes()
        requests, answers = write_requests(self.place, 36), os.path.join(self.place, "answers")
        log = os.path.join(self.place, "log")
        with open(log, "w", encoding="utf-8") as file:
            driver = self.start(network.inside(0, *self.batch(requests, answers)), env=self.environment, stdout=file, stderr=file)

        def both_compute():
            self.assertIsNone(driver.poll(), read(log))
            return all(any(computes(pid) for pid in network.processes(node)) for node in (0, 1))

        until(both_compute, "work on both nodes")
        network.kill(1)
        self.assertEqual(driver.wait(timeout=5 * WAIT), 0, read(log))
        expected = by_one_process(self.place, requests, *LONGER)
        self.assertEqual(len(expected), 36)
        paths = [os.path.join(answers, f"{shard}-of-{SHARDS}.jsonl") for shard in range(1, SHARDS + 1)]
        self.assertEqual(results(*paths), expected)
        self.assertEqual(sorted(os.listdir(answers)), sorted(os.path.basename(path) for path in paths))

        # The same command again keeps every byte, and answers of other settings are refused.
        def again(*options):
            command = network.inside(0, *self.batch(requests, answers), *options)
            return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=5 * WAIT)

        before = [read(path) for path in paths]
        same, other = again(), again("--temp", "0")
        self.assertEqual(same.returncode, 0, same.stdout + same.stderr)
        self.assertEqual(other.returncode, 1)
        self.assertIn("temperature", other.stderr)
        self.assertEqual([read(path) for path in paths], before)

    def test_a_node_that_does_not_answer(self):
        """Without its link the second node is not seen to be lost: the time limit submits its work again."""
        network = self.nodes()
        requests, answers = write_requests(self.place, 12), os.path.join(self.place, "answers")
        log = os.path.join(self.place, "log")
        command = self.batch(requests, answers, "--time-limit", "60", "--retries", "8")
        with open(log, "w", encoding="utf-8") as file:
            driver = self.start(network.inside(0, *command), env=self.environment, stdout=file, stderr=file)
        until(lambda: driver.poll() is not None or any(computes(pid) for pid in network.processes(1)), "work on the second node")
        network.cut(1)
        self.assertEqual(driver.wait(timeout=5 * WAIT), 0, read(log))
        self.assertIn("submitting", read(log))
        paths = [os.path.join(answers, name) for name in os.listdir(answers)]
        self.assertEqual(results(*paths), by_one_process(self.place, requests, *LONGER))

    def test_replicas_of_a_server(self):
        needs_root()
        port, log = free_port(), os.path.join(self.place, "log")
        script = os.path.join(ROOT, "examples", "ray_serve.py")
        words = [self.python, script, "--port", str(port), "--parallel", "2", "--max-replicas", "2", "--upscale-delay", "1"]
        # Everything that Ray starts ends with the first process of its namespace.
        separate = [tool("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
        with open(log, "w", encoding="utf-8") as file:
            driver = self.start([*separate, *words], env=self.environment, stdout=file, stderr=file, cwd=self.place)

        def serves():
            self.assertIsNone(driver.poll(), read(log))
            try:
                return get(port, "/health")[0] == 200
            except OSError:
                return False

        until(serves, "the first replica")
        alone = self.replica()
        for number in range(3):
            expected = text_of(ask(alone.port, body_of(number))[1])
            status, content = ask(port, body_of(number))
            self.assertEqual((status, text_of(content)), (200, expected))
            self.assertEqual(stream(port, body_of(number)), expected)
        # A refusal of the server comes through as it is.
        status, content = ask(port, body_of(0, max_tokens="many"))
        self.assertEqual((status, json.loads(content)["error"]["param"]), (400, "max_tokens"))
        self.assertEqual(len(self.servers(driver)), 1)
        load = Load(port, 8)
        until(lambda: len(self.servers(driver)) == 2, "the second replica")
        load.more(32)
        load.stop()
        self.assertEqual(load.failures, [])
        for number in range(3):
            self.assertEqual(load.texts[number], text_of(ask(alone.port, body_of(number))[1]))
        # An actor that is killed takes its server with it, and Ray replaces both.
        before = self.servers(driver)
        os.kill(before[0][1], signal.SIGKILL)
        until(lambda: before[0] not in self.servers(driver), "the end of the server of a killed actor")
        until(lambda: len(self.servers(driver)) == 2, "another replica")
        until(lambda: ask(port, body_of(0))[0] == 200, "an answer after the loss")

    def python_package(self):
        """A folder for PYTHONPATH that has the package `bitnetc`, with the native module that was built with the binary."""
        native = os.path.join(os.path.dirname(os.path.realpath(BITNETC)), "lib_bitnetc.so")
        if not os.path.exists(native):
            self.skipTest(f"there is no {native}: .ci/scale builds it")
        folder, sources = os.path.join(self.folder(), "bitnetc"), os.path.join(ROOT, "python", "python", "bitnetc")
        os.mkdir(folder)
        for name in os.listdir(sources):
            os.symlink(os.path.join(sources, name), os.path.join(folder, name))
        os.symlink(native, os.path.join(folder, "_bitnetc.abi3.so"))
        return os.path.dirname(folder)

    def rows_of(self, program, **variables):
        """What a program that uses Ray Data on a cluster of its own prints: a row in JSON per line."""
        command = [tool("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc", self.python, "-c", program]
        done = subprocess.run(command, env={**self.environment, **variables}, capture_output=True, text=True, cwd=self.place, timeout=5 * WAIT)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {row["prompt"]: row for row in rows}

    def test_a_data_set_with_a_model_per_actor(self):
        needs_root()
        rows = self.rows_of(DATA_SET, PYTHONPATH=self.python_package())
        self.assertEqual(len(rows), 12)
        # Two actors, each a process with a model.
        self.assertEqual(len({row["process"] for row in rows.values()}), 2)
        alone = self.replica()
        for prompt, row in rows.items():
            body = {"prompt": prompt, "max_tokens": 12, "temperature": 0}
            self.assertEqual(row["completion"], text_of(ask(alone.port, body)[1]))

    def test_a_data_set_and_a_server(self):
        """The program of docs/scaling.md."""
        needs_root()
        replica = self.replica()
        prompts, texts = os.path.join(self.place, "prompts.jsonl"), os.path.join(self.place, "texts")
        with open(prompts, "w", encoding="utf-8") as file:
            file.write("".join(json.dumps({"prompt": f"Scene {number}. ROMEO:"}) + "\n" for number in range(8)))
        program = read(ROOT, "docs", "scaling.md").split("```python\n")[1].split("```")[0]
        for old, new in (("http://llm.example.org/", f"http://{replica.address}/"), ("prompts.jsonl", prompts), ('"texts"', repr(texts))):
            self.assertIn(old, program)
            program = program.replace(old, new)
        self.rows_of(program)
        found = "".join(read(texts, name) for name in os.listdir(texts)).splitlines()
        expected = [text_of(ask(replica.port, {"prompt": f"Scene {number}. ROMEO:", "max_tokens": 64, "seed": 1})[1]) for number in range(8)]
        self.assertEqual(sorted(json.loads(line)["text"] for line in found), sorted(expected))

    def servers(self, driver):
        """Ids of the servers that descend from a process, each with that of its parent."""
        children = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = int(read("/proc", pid, "stat").rsplit(")", 1)[1].split()[1])
                command = read("/proc", pid, "cmdline").split("\0")
            except OSError:
                continue
            children.setdefault(parent, []).append((int(pid), "serve" in command and command[0].endswith("bitnetc")))
        found, left = [], [driver.pid]
        while left:
            parent = left.pop()
            for pid, serves in children.get(parent, []):
                found += [(pid, parent)] if serves else []
                left.append(pid)
        return sorted(found)
