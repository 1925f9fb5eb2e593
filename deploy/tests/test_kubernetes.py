"""The manifests: built by kustomize, valid by the schemas of Kubernetes, and consistent with each other and with the server."""
import json
import os
import subprocess

from support import BITNETC, DEPLOY, Case, ask, body_of, clean_environment, environment_python, get, read, tool

FOLDER = os.path.join(DEPLOY, "kubernetes")
VARIANTS = ["base", "hpa", "keda"]
# Reads YAML documents on standard input and writes them as a list in JSON.
TO_JSON = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))"
# Validates a list of such documents against a version of Kubernetes; fields that the schema has not are errors.
VALIDATE = """
import json, sys, kubernetes_validate
for document in json.load(sys.stdin):
    kubernetes_validate.validate(document, sys.argv[1], strict=True)
"""
# The oldest version that has the pause of preStop without a feature gate, and the newest of which there are schemas.
VERSIONS = ["1.30", "1.37"]
# Resources that other projects define, so that Kubernetes has no schema of them.
FOREIGN = {"PodMonitor", "ScaledObject", "InferenceService"}


def documents(text):
    """The documents of a text in YAML."""
    command = [environment_python("kubernetes"), "-c", TO_JSON]
    return json.loads(subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout)


def built(variant):
    """The resources that `kubectl apply -k` would send, by kind and name."""
    made = subprocess.run([tool("kubectl"), "kustomize", os.path.join(FOLDER, variant)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return {(each["kind"], each["metadata"]["name"]): each for each in documents(made.stdout)}


class Manifests(Case):
    def test_schemas(self):
        python = environment_python("kubernetes")

        def validate(resources, version):
            command = [python, "-c", VALIDATE, version]
            return subprocess.run(command, input=json.dumps(resources), capture_output=True, text=True)

        for variant in VARIANTS:
            resources = [each for (kind, _), each in built(variant).items() if kind not in FOREIGN]
            self.assertGreaterEqual(len(resources), 4)
            for version in VERSIONS:
                valid = validate(resources, version)
                self.assertEqual(valid.returncode, 0, f"{variant}, {version}: {valid.stderr}")
        # The container of KServe's resource is one of Kubernetes' own.
        predictor = documents(read(FOLDER, "kserve.yaml"))[0]["spec"]["predictor"]
        own = {"minReplicas", "maxReplicas"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {k: v for k, v in predictor.items() if k not in own}}
        self.assertEqual(validate([pod], VERSIONS[-1]).returncode, 0)
        # The check can fail.
        pod["spec"]["containers"][0]["readinesProbe"] = {}
        self.assertNotEqual(validate([pod], VERSIONS[-1]).returncode, 0)

    def test_they_fit_together(self):
        for variant in VARIANTS:
            resources = built(variant)
            deployment = resources["Deployment", "bitnetc"]["spec"]
            labels = deployment["template"]["metadata"]["labels"]
            selectors = [deployment["selector"]["matchLabels"], resources["PodDisruptionBudget", "bitnetc"]["spec"]["selector"]["matchLabels"]]
            services = [each["spec"] for (kind, _), each in resources.items() if kind == "Service"]
            self.assertEqual(len(services), 2)
            selectors += [service["selector"] for service in services]
            selectors += [each["spec"]["selector"]["matchLabels"] for (kind, _), each in resources.items() if kind == "PodMonitor"]
            for selector in selectors:
                self.assertEqual(selector, labels)
            container = deployment["template"]["spec"]["containers"][0]
            for service in services:
                self.assertEqual([port["targetPort"] for port in service["ports"]], [container["ports"][0]["name"]])
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            self.assertEqual(mounted, {volume["name"] for volume in deployment["template"]["spec"]["volumes"]})
            # Where an autoscaler is, nothing else says how many replicas there are.
            self.assertEqual("replicas" in deployment, variant == "base")
        reference = resources["ScaledObject", "bitnetc"]["spec"]["scaleTargetRef"]
        self.assertIn(("Deployment", reference["name"]), resources)
        reference = built("hpa")["HorizontalPodAutoscaler", "bitnetc"]["spec"]["scaleTargetRef"]
        self.assertEqual((reference["kind"], reference["name"]), ("Deployment", "bitnetc"))

    def test_a_pod_has_time_to_drain(self):
        pods = [built("base")["Deployment", "bitnetc"]["spec"]["template"]["spec"], documents(read(FOLDER, "kserve.yaml"))[0]["spec"]["predictor"]]
        for pod in pods:
            container = pod["containers"][0]
            drain = next(int(word.split("=")[1]) for word in container["args"] if word.startswith("--drain-timeout="))
            pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], pause + drain + 5)
            # Services named bitnetc would set BITNETC_PORT.
            self.assertIs(pod["enableServiceLinks"], False)

    def test_the_server_takes_the_arguments_and_answers_the_probes(self):
        container = built("base")["Deployment", "bitnetc"]["spec"]["template"]["spec"]["containers"][0]
        self.assertEqual(container["args"][:2], ["serve", "/models/model.gguf"])
        keys = {variable["name"]: variable["valueFrom"]["secretKeyRef"]["key"] for variable in container["env"]}
        # The built-in model in the place of the volume's; the image listens at all addresses.
        command = [BITNETC, "serve", *container["args"][2:], "--ctx-size=256", "--port=0", "-t", "1"]
        server = self.start(command, env=clean_environment(**keys), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = server.stdout.readline().strip().rsplit(":", 1)[1]

        def status(path, key=None):
            return get(port, path, key)[0]

        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertEqual(status(container[probe]["httpGet"]["path"]), 200, probe)
        monitor = built("hpa")["PodMonitor", "bitnetc"]["spec"]["podMetricsEndpoints"][0]
        self.assertEqual(status(monitor["path"]), 401)
        self.assertEqual(status(monitor["path"], monitor["authorization"]["credentials"]["key"]), 200)
        self.assertEqual(status("/v1/models", keys["BITNETC_API_KEY"]), 200)

    def test_the_metrics_of_the_autoscalers_exist(self):
        replica = self.replica()
        ask(replica.port, body_of(1, max_tokens=1))
        metrics = get(replica.port, "/metrics")[1].decode()
        names = {line.split("{")[0] for line in metrics.splitlines() if not line.startswith("#")}
        autoscaler = built("hpa")["HorizontalPodAutoscaler", "bitnetc"]["spec"]["metrics"]
        for metric in autoscaler:
            self.assertIn(metric["pods"]["metric"]["name"].replace("bitnetc_", "bitnetc:", 1), names)
        queries = [trigger["metadata"]["query"] for trigger in built("keda")["ScaledObject", "bitnetc"]["spec"]["triggers"]]
        self.assertEqual(len(queries), len(autoscaler))
        for query in queries:
            self.assertIn(query.removeprefix("sum(").split("{")[0], names)
        # Numbers in docs/scaling.md that other projects' routers read.
        for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
            self.assertIn(name, names)
