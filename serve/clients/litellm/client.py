"""LiteLLM, by four of its providers: openai, hosted_vllm, text-completion-openai and ollama_chat."""
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

from checks import BASE, FUNCTION, SCHEMA, TOOLS, check, is_person, main, raises  # noqa: E402

litellm.suppress_debug_info = True
ASK = [{"role": "user", "content": "Speak!"}]
SHORT = {"messages": ASK, "max_tokens": 12, "temperature": 0, "num_retries": 0, "api_key": "none"}
PROVIDERS = [("openai/bitnetc", f"{BASE}/v1"), ("hosted_vllm/bitnetc", f"{BASE}/v1")]


@check
def chats_and_streams():
    texts = set()
    for model, base in PROVIDERS:
        answer = litellm.completion(model=model, api_base=base, **SHORT)
        chunks = list(litellm.completion(model=model, api_base=base, stream=True, stream_options={"include_usage": True}, **SHORT))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == answer.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
        texts.add(text)
    assert len(texts) == 1


@check
def texts():
    answer = litellm.text_completion(model="text-completion-openai/bitnetc", api_base=f"{BASE}/v1", api_key="none", prompt="ROMEO:", max_tokens=8, temperature=0)
    assert answer.choices[0].text


@check
def ollama():
    answer = litellm.completion(model="ollama_chat/shakespeare-5m", api_base=BASE, **SHORT)
    assert answer.choices[0].message.content


@check
def structured_output():
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = litellm.completion(model=PROVIDERS[0][0], api_base=PROVIDERS[0][1], response_format=form, **{**SHORT, "max_tokens": 120})
    is_person(answer.choices[0].message.content)


@check
def tools():
    request = {**SHORT, "max_tokens": 400, "parallel_tool_calls": False, "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"}
    answer = litellm.completion(model="openai/bitnetc", api_base=f"{TOOLS}/v1", **request)
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "weather"
    chunks = list(litellm.completion(model="openai/bitnetc", api_base=f"{TOOLS}/v1", stream=True, **request))
    built = litellm.stream_chunk_builder(chunks).choices[0]
    assert built.message.tool_calls[0].function.arguments == call.function.arguments and built.finish_reason == "tool_calls"


@check
def refusals():
    long = {**SHORT, "messages": [{"role": "user", "content": "word " * 9000}]}
    raises(litellm.ContextWindowExceededError, lambda: litellm.completion(model=PROVIDERS[0][0], api_base=PROVIDERS[0][1], **long))
    raises(Exception, lambda: litellm.embedding(model="openai/bitnetc", api_base=f"{BASE}/v1", api_key="none", input=["x"], num_retries=0))


main()
