"""The root folder of the image, made and run without a container engine: in namespaces of its own, read-only, as the user of the Dockerfile, with its
variables, its command and its health check."""
import json
import os
import re
import signal
import subprocess

from support import BITNETC, DEPLOY, WAIT, Case, ask, body_of, free_port, needs_root, read, text_of, tool, until


class Dockerfile:
    """The last stage of the Dockerfile."""

    def __init__(self):
        text = read(DEPLOY, "Dockerfile")
        self.build, self.stage = text.split("FROM scratch\n")
        self.variables = dict(word.split("=", 1) for word in self.word("ENV").split())
        self.user = self.word("USER")
        self.entrypoint, self.command = json.loads(self.word("ENTRYPOINT")), json.loads(self.word("CMD"))
        self.health = json.loads(self.word("HEALTHCHECK").split(" CMD ", 1)[1])

    def word(self, name):
        found = re.findall(rf"^{name} (.*)$", self.stage, re.MULTILINE)
        assert len(found) == 1, f"{name} stands {len(found)} times in the last stage"
        return found[0]


def static_binary():
    """The binary that was linked statically, if there is one; else the usual one, whose libraries the folder then has."""
    return os.environ.get("BITNETC_STATIC") or BITNETC


class Image(Case):
    def setUp(self):
        needs_root()
        self.dockerfile, self.port = Dockerfile(), free_port()
        self.root = os.path.join(self.folder(), "root")
        subprocess.run([os.path.join(DEPLOY, "image-root"), static_binary(), self.root], check=True)
        # A port of the test instead of the one that the image exposes.
        self.variables = {**self.dockerfile.variables, "BITNETC_PORT": str(self.port)}

    def command(self, *words):
        return ["env", "-i", *(f"{name}={value}" for name, value in self.variables.items()), *words]

    def inside(self, *words):
        """A command with the root folder as its root and the user of the image."""
        return self.command(tool("chroot"), f"--userspec={self.dockerfile.user}", self.root, *words)

    def run_image(self, *words):
        """Starts the entry point as the first process of its own namespace, with a root folder that it cannot write to."""
        mounts = 'mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount -t tmpfs -o mode=1777 cache "$0/cache" '
        mounts += '&& mount -t tmpfs -o mode=1777 tmp "$0/tmp" && mount -o remount,bind,ro "$0" && exec "$@"'
        separate = [tool("unshare"), "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, self.root]
        if subprocess.run([*separate, "true"], capture_output=True).returncode != 0:
            self.skipTest("this system gives no namespaces")
        log = os.path.join(self.folder(), "log")
        with open(log, "w", encoding="utf-8") as file:
            process = self.start([*separate, *self.inside(*words)], stdout=file, stderr=file)
        return process, log

    def health(self):
        return subprocess.run(self.inside(*self.dockerfile.health), capture_output=True, text=True)

    def test_the_folder(self):
        self.assertIn("deploy/image-root target/release/bitnetc /image", self.dockerfile.build)
        self.assertIn("COPY --from=build /image/ /", self.dockerfile.stage)
        for folder, mode in (("cache", 0o1777), ("tmp", 0o1777), ("models", 0o755)):
            self.assertEqual(os.stat(os.path.join(self.root, folder)).st_mode & 0o7777, mode, folder)
        if "BITNETC_STATIC" in os.environ:
            self.assertFalse(os.path.exists(os.path.join(self.root, "lib64")))
        # It is not made twice.
        again = subprocess.run([os.path.join(DEPLOY, "image-root"), static_binary(), self.root], capture_output=True, text=True)
        self.assertEqual(again.returncode, 1)

    def test_the_server(self):
        self.assertEqual(self.health().returncode, 1)
        process, log = self.run_image(*self.dockerfile.entrypoint, *self.dockerfile.command)
        until(lambda: self.health().returncode == 0 or process.poll() is not None, "the health check")
        self.assertIsNone(process.poll(), read(log))
        status, content = ask(self.port, body_of(3))
        self.assertEqual(status, 200)
        alone = self.replica()
        self.assertEqual(text_of(content), text_of(ask(alone.port, body_of(3))[1]))
        server = self.process_of_the_image(process)
        self.assertEqual(os.stat(f"/proc/{server}").st_uid, 65532)
        self.assertIn("NSpid:\t%d\t1\n" % server, read(f"/proc/{server}/status"))
        # As `docker stop` does it. The first process of a namespace gets only signals that it asked for.
        os.kill(server, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=WAIT), 0, read(log))
        self.assertIn("shut down", read(log))

    def process_of_the_image(self, process):
        """The process of the host that is the first one in the namespace."""
        return int(read(f"/proc/{process.pid}/task/{process.pid}/children").split()[0])

    def test_a_batch(self):
        """Another command of the image: the entry point takes any."""
        work = os.path.join(self.root, "work")
        os.mkdir(work)
        os.chmod(work, 0o777)
        with open(os.path.join(work, "in.txt"), "w", encoding="utf-8") as file:
            file.write("ROMEO:\n")
        words = [*self.dockerfile.entrypoint, "-q", "batch", "/work/in.txt", "-o", "/work/out.jsonl", "-n", "4", "--temp", "0"]
        done = subprocess.run(self.inside(*words), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(read(work, "out.jsonl"))["response"]["status_code"], 200)
