"""nginx and HAProxy with two replicas, one of which is killed or drained under load. What is tested is the text of the files in `deploy`, with
the ports and certificates of the test in place of theirs."""
import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request

from support import DEPLOY, ROOT, WAIT, Case, Load, ask, ask_with_headers, body_of, clean_environment, environment_python, free_port, get, read, stream, text_of, tool, until, while_held

CLIENTS = 6


def replaced(text, *pairs):
    for old, new in pairs:
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, new)
    return text


class Balancer:
    """What both have in common: the tests, of one balancer in front of two replicas."""

    def begin(self, *options):
        # At ports that no connection of a client takes while a replica is down.
        self.replicas = [self.replica("--log-requests", "json", *options, port=free_port()) for _ in range(2)]
        self.port = self.balance(*(replica.port for replica in self.replicas))
        until(self.reaches_both, "both replicas behind the balancer")

    def reaches_both(self):
        try:
            ask(self.port, body_of(0, max_tokens=1))
        except OSError:
            # It does not listen yet.
            return False
        return all(replica.answered() for replica in self.replicas)

    def answer(self, number, fields={}, **headers):
        self.assertEqual(ask(self.port, body_of(number, **fields), **headers)[0], 200)

    def shares(self, send, count):
        """How many of the requests that `send` makes each replica answers, the smaller number first. A balancer may count a request for a
        while after its answer has arrived, and that is a reason to choose the other replica: a test has to make several attempts."""
        before = [replica.answered() for replica in self.replicas]
        send()
        until(lambda: sum(replica.answered() for replica in self.replicas) == sum(before) + count, f"the logs of {count} requests")
        return sorted(replica.answered() - old for replica, old in zip(self.replicas, before))

    def check(self, load, at_least):
        """Every request has its text, and the text is that of one server."""
        self.assertEqual(load.failures, [])
        self.assertGreaterEqual(len(load.texts), at_least)
        self.assertEqual(sorted(load.texts), list(range(len(load.texts))))
        alone = self.replica()
        for number in list(load.texts)[:: max(1, len(load.texts) // 20)]:
            self.assertEqual(load.texts[number], text_of(ask(alone.port, body_of(number))[1]), number)

    def test_a_killed_replica_loses_no_request(self):
        self.begin()
        load = Load(self.port, CLIENTS)
        load.more(2 * CLIENTS)
        # A stopped process holds its requests, so that it has some when it is killed.
        self.replicas[1].process.send_signal(signal.SIGSTOP)
        load.more(2 * CLIENTS)
        held = load.under_way()
        load.more(2 * CLIENTS)
        held &= load.under_way()
        self.assertTrue(held)
        self.replicas[1].process.send_signal(signal.SIGKILL)
        until(lambda: not held & load.under_way(), "the end of the requests of the killed replica")
        # It comes back at the same address.
        back = self.replica("--log-requests", "json", port=self.replicas[1].port)
        until(back.answered, "requests at the replica that came back")
        load.stop()
        self.check(load, 6 * CLIENTS)

    def test_a_drained_replica_loses_no_request_and_no_stream(self):
        self.begin()
        whole, streams = Load(self.port, CLIENTS // 2), Load(self.port, CLIENTS // 2, send=stream)
        whole.more(CLIENTS)
        streams.more(CLIENTS)
        self.replicas[1].drain()
        self.assertEqual(self.replicas[1].process.wait(timeout=WAIT), 0)
        whole.more(2 * CLIENTS)
        streams.more(2 * CLIENTS)
        whole.stop()
        streams.stop()
        self.check(whole, 3 * CLIENTS)
        self.check(streams, 3 * CLIENTS)

    def test_requests_go_to_the_replica_with_fewer_of_them(self):
        self.begin("-c", "4096")

        def one_held_and_six_others():
            while_held(self.port, lambda: [self.answer(number, {"max_tokens": 2}) for number in range(6)])

        self.assertTrue(any(self.shares(one_held_and_six_others, 7) == [1, 6] for _ in range(5)))

    def test_a_full_queue_is_the_answer_of_the_replica(self):
        self.begin("-c", "4096", "--parallel", "1", "--max-queue", "0")
        refused = []

        def third():
            # Longer than it takes a balancer to decide that a replica is down.
            for number in range(8):
                refused.append(ask_with_headers(self.port, body_of(number)))
                time.sleep(1)

        while_held(self.port, lambda: while_held(self.port, third))
        self.assertEqual([status for status, _, _ in refused], [429] * 8)
        self.assertTrue(all(int(headers["retry-after"]) >= 1 for _, _, headers in refused))
        until(lambda: ask(self.port, body_of(2))[0] == 200, "an answer after the queue")

    def test_tls_ids_and_metrics(self):
        self.begin()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def get(path):
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{self.encrypted}{path}", context=context, timeout=WAIT) as answer:
                    return answer.status, answer.headers
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.headers

        status, headers = get("/v1/models")
        self.assertEqual(status, 200)
        self.assertGreaterEqual(len(headers["x-request-id"]), 32)
        self.assertEqual(get("/metrics")[0], 403)


class Nginx(Balancer, Case):
    def balance(self, first, second):
        nginx, folder, port, inner = tool("nginx"), self.folder(), free_port(), free_port()
        pem = certificate(folder)
        site = replaced(
            read(DEPLOY, "nginx.conf"),
            ("127.0.0.1:8080", f"127.0.0.1:{first}"),
            ("127.0.0.1:8081", f"127.0.0.1:{second}"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl; listen 127.0.0.1:{inner};"),
            ("/etc/ssl/llm.example.org.pem", pem),
            ("/etc/ssl/llm.example.org.key", pem),
        )
        paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root;" if os.geteuid() == 0 else ""
        main = f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}} http {{ access_log off; {paths} include {folder}/site; }}"
        for name, text in (("site", site), ("main", main)):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        subprocess.run([nginx, "-q", "-t", "-c", f"{folder}/main"], check=True)
        # Its workers end with it, unless it is killed.
        self.start([nginx, "-c", f"{folder}/main"], end=signal.SIGTERM)
        self.encrypted = port
        return inner


class Haproxy(Balancer, Case):
    affinity = None

    def test_a_conversation_stays_with_a_replica(self):
        self.affinity = read(ROOT, "docs", "scaling.md").split("```haproxy\n")[1].split("```")[0]
        self.begin()

        def eight_of_one():
            for number in range(8):
                self.answer(number, **{"x-conversation": "one"})

        self.assertTrue(any(self.shares(eight_of_one, 8) == [0, 8] for _ in range(5)))

    def balance(self, first, second):
        haproxy, folder, port, inner = tool("haproxy"), self.folder(), free_port(), free_port()
        config = replaced(
            read(DEPLOY, "haproxy.cfg"),
            ("127.0.0.1:8080", f"127.0.0.1:{first}"),
            ("127.0.0.1:8081", f"127.0.0.1:{second}"),
            ("bind :443 ssl crt /etc/haproxy/llm.example.org.pem", f"bind 127.0.0.1:{port} ssl crt {certificate(folder)}\n    bind 127.0.0.1:{inner}"),
        )
        if self.affinity:
            config = replaced(config, ("    balance leastconn\n", self.affinity))
        with open(os.path.join(folder, "haproxy.cfg"), "w", encoding="utf-8") as file:
            file.write(config)
        with open(os.path.join(folder, "log"), "w", encoding="utf-8") as log:
            self.start([haproxy, "-f", f"{folder}/haproxy.cfg"], stdout=log, stderr=log)
        self.encrypted = port
        return inner


class Litellm(Case):
    """The configuration of docs/scaling.md."""

    KEY = "sk-of-the-proxy"

    def send(self, port, body):
        status, content = ask(port, {**body, "model": "bitnetc"}, key=self.KEY)
        assert status == 200, f"{status}: {content!r}"
        return text_of(content)

    def test_a_killed_replica_loses_no_request(self):
        python, folder, port = environment_python("litellm"), self.folder(), free_port()
        replicas = [self.replica("--api-key", "of-the-servers") for _ in range(2)]
        text = read(ROOT, "docs", "scaling.md").split("```yaml\nmodel_list:")[1].split("```")[0]
        addresses = [("http://10.0.0.1:8080", f"http://{replicas[0].address}"), ("http://10.0.0.2:8080", f"http://{replicas[1].address}")]
        config, log = os.path.join(folder, "config.yaml"), os.path.join(folder, "log")
        with open(config, "w", encoding="utf-8") as file:
            file.write("model_list:" + replaced(text, *addresses))
        variables = {"LITELLM_MASTER_KEY": self.KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "BITNETC_API_KEY": "of-the-servers"}
        command = [os.path.join(os.path.dirname(python), "litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        with open(log, "w", encoding="utf-8") as file:
            proxy = self.start(command, end=signal.SIGTERM, env=clean_environment(**variables), stdout=file, stderr=file, cwd=folder)

        def listens():
            self.assertIsNone(proxy.poll(), read(log))
            try:
                return get(port, "/health/liveliness")[0] == 200
            except OSError:
                return False

        until(listens, "the proxy")
        load = Load(port, 4, send=self.send)
        load.more(8)
        replicas[1].process.send_signal(signal.SIGKILL)
        load.more(12)
        load.stop()
        self.assertEqual(load.failures, [])
        alone = self.replica()
        for number in range(4):
            self.assertEqual(load.texts[number], text_of(ask(alone.port, body_of(number))[1]))


def certificate(folder):
    """A certificate and its key in one file."""
    pem = os.path.join(folder, "site.pem")
    command = [tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=llm.example.org"]
    subprocess.run([*command, "-keyout", f"{pem}.key", "-out", f"{pem}.crt"], capture_output=True, check=True)
    with open(pem, "w", encoding="utf-8") as file:
        file.write(read(f"{pem}.crt") + read(f"{pem}.key"))
    return pem
