"""The model class of lm-eval, EleutherAI's evaluation harness.

    python -m bitnetc.lm_eval --model_args path=model.plan --tasks arc_easy

The same from Python: ``import bitnetc.lm_eval``, then ``lm_eval.simple_evaluate(model="bitnetc", …)``. Arguments of the model are
``path``, the options of :class:`bitnetc.Model`, ``add_bos_token`` and ``max_gen_toks``.

Contexts that several answers share, and their common beginnings, are computed once; requests for texts are made together.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, cast

# First: lm-eval registers its own classes only while none is registered.
import lm_eval.models
import lm_eval.utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from ._model import Model


@register_model("bitnetc")
class BitnetcLM(TemplateLM):  # type: ignore[misc]
    """A bitnetc model for lm-eval."""

    def __init__(
        self,
        path: str | None = None,
        *,
        model: Model | None = None,
        add_bos_token: bool = False,
        max_gen_toks: int = 256,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        **options: Any,
    ) -> None:
        # How many texts are computed together is the engine's business, and where there is no choice.
        del batch_size, max_batch_size, device
        super().__init__()
        self.model = model if model is not None else Model(path, **options)
        self.add_bos_token = add_bos_token
        self._max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        """The token that stands for an empty context."""
        tokenizer = self.model.tokenizer
        token = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
        return 0 if token is None else token

    @property
    def prefix_token_id(self) -> int:
        """The token in front of texts that are scored from their beginning."""
        bos = self.model.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """Tokens that a text has room for."""
        return self.model.info.context

    @property
    def max_gen_toks(self) -> int:
        """Tokens of a text whose task does not say."""
        return self._max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """What cached requests are kept apart by."""
        return f"bitnetc-{self.model.info.source_hash[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The name of the template: it is applied by the model."""
        return self.model.info.chat_template or ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text."""
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        return self.model.tokenizer.encode(string, add_special_tokens=special)

    def tok_decode(self, tokens: Sequence[int], **kwargs: Any) -> str:
        """The text of ids."""
        return self.model.tokenizer.decode(tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation."""
        return self.model.tokenizer.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        room = self.max_length
        pairs = []
        for _, context, text in requests:
            # The last token is not fed. Of what is too long the end counts, as in lm-eval's own classes.
            kept = (context + text)[-(room + 1) :]
            split = max(len(kept) - len(text), 1)
            pairs.append((kept[:split], kept[split:]))
        scored = self.model.loglikelihood_tokens(pairs)
        for (key, _, _), answer in zip(requests, scored, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answer)
        return scored

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """How likely whole texts are."""
        sums = []
        for (text,) in (request.args for request in requests):
            windows = lm_eval.utils.get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [(None, *lm_eval.utils.make_disjoint_window(window)) for window in windows]
            total = sum(score for score, _ in self._loglikelihood_tokens(parts))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            sums.append(total)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts until one of the strings that end them."""
        # Those of the same settings are made together.
        groups: dict[str, list[int]] = {}
        for at, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(at)
        texts: list[str] = [""] * len(requests)
        for places in groups.values():
            options = self._options(requests[places[0]].args[1])
            prompts = [self._prompt(requests[at].args[0], options["max_tokens"]) for at in places]
            for at, completion in zip(places, self.model.generate(prompts, **options), strict=True):
                texts[at] = completion.text
                self.cache_hook.add_partial("generate_until", requests[at].args, completion.text)
        return texts

    def _prompt(self, context: str, made: int) -> list[int]:
        """The ids of a context: its end, where all of it leaves no room."""
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        return tokens[-max(self.max_length - made, 1) :]

    def _options(self, asked: dict[str, Any]) -> dict[str, Any]:
        """lm-eval's settings as ours: greedy unless a task samples."""
        until = asked.get("until") or []
        sampled = asked.get("do_sample", asked.get("temperature", 0) > 0)
        options: dict[str, Any] = {
            "max_tokens": int(asked.get("max_gen_toks", asked.get("max_tokens", self.max_gen_toks))),
            "stop": [until] if isinstance(until, str) else list(until),
            "temperature": asked.get("temperature", 1.0) if sampled else 0,
        }
        options.update({name: asked[name] for name in ("top_p", "top_k", "min_p", "seed") if name in asked})
        return options


def main() -> None:
    """lm-eval's command, with this model unless another is asked for."""
    from lm_eval.__main__ import cli_evaluate

    if not any(word == "--model" or word.startswith("--model=") for word in sys.argv):
        # After the word of a subcommand, where there is one.
        at = 2 if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else 1
        sys.argv[at:at] = ["--model", "bitnetc"]
    cast(Any, cli_evaluate)()


if __name__ == "__main__":
    main()
