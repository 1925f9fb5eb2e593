"""lm-eval's `local-completions` on a task of its own data: the scores of the server equal those that `bitnetc logits` gives, with the
prompt cache and without it."""
import json
import math
import os
import pathlib
import subprocess
import tempfile

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy  # noqa: E402
import requests  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.models.openai_completions import LocalCompletionsAPI  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from checks import BASE, check, main  # noqa: E402

BINARY = os.environ["BITNETC"]
MODEL = requests.get(f"{BASE}/v1/models", timeout=600).json()["data"][0]["id"]
DOCUMENTS = [
    {"query": "ROMEO:\nO, she doth teach the torches to burn", "choices": [" bright!", " the king", " xylophone"], "gold": 0},
    {"query": "To be, or not to be, that is the", "choices": [" day", " question", " night"], "gold": 1},
    {"query": "KING RICHARD III:\nMy horse! my", "choices": [" kingdom for a horse!", " lord", " zzz"], "gold": 0},
    {"query": "First Citizen:\nBefore we proceed any", "choices": [" more", " further, hear me speak.", " cat"], "gold": 1},
]
TASK = """
task: own_data
dataset_path: json
dataset_kwargs:
  data_files: {{"test": "{data}"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
"""


class WithoutCache(LocalCompletionsAPI):
    """The same requests with the prompt cache left aside."""

    def _create_payload(self, *args, **kwargs):
        return {**super()._create_payload(*args, **kwargs), "cache_prompt": False}


def evaluate(kind):
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder, "data.jsonl")
        data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
        pathlib.Path(folder, "own_data.yaml").write_text(TASK.format(data=data))
        model = kind(model=MODEL, base_url=f"{BASE}/v1/completions", tokenizer_backend="remote", num_concurrent=4, max_retries=1, max_length=256)
        tasks = TaskManager(include_path=folder, include_defaults=False)
        results = simple_evaluate(model=model, tasks=["own_data"], task_manager=tasks, log_samples=True, bootstrap_iters=0)
    samples = sorted(results["samples"]["own_data"], key=lambda sample: sample["doc_id"])
    scores = [[float(response[0][0]) for response in sample["resps"]] for sample in samples]
    return scores, results["results"]["own_data"]["acc,none"]


def tokens(text):
    return requests.post(f"{BASE}/tokenize", json={"prompt": text, "add_special_tokens": False}, timeout=600).json()["tokens"]


def own_score(query, choice):
    """The sum of the log-probabilities of a choice, from the logits that the command writes."""
    prompt, whole = tokens(query), tokens(query + choice)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "logits.npy")
        ids = ",".join(map(str, whole))
        subprocess.run([BINARY, "--quiet", "logits", "--tokens", ids, "-o", path], check=True, stdout=subprocess.DEVNULL)
        logits = numpy.load(path).astype(numpy.float64)
    peak = logits.max(axis=-1, keepdims=True)
    log_probabilities = logits - peak - numpy.log(numpy.exp(logits - peak).sum(axis=-1, keepdims=True))
    return sum(log_probabilities[i - 1, whole[i]] for i in range(len(prompt), len(whole)))


@check
def scores_equal_our_own():
    own = [[own_score(d["query"], choice) for choice in d["choices"]] for d in DOCUMENTS]
    best = [max(range(len(row)), key=row.__getitem__) for row in own]
    accuracy = sum(b == d["gold"] for b, d in zip(best, DOCUMENTS)) / len(DOCUMENTS)
    cached, plain = evaluate(LocalCompletionsAPI), evaluate(WithoutCache)
    assert cached == plain, (cached, plain)
    assert cached[1] == accuracy, (cached, own)
    for row, expected in zip(cached[0], own):
        assert all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-4) for a, b in zip(row, expected)), (row, expected)


main()
