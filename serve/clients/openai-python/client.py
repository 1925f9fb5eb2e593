"""The `openai` package: chats, completions, responses, models, streams, tools, structured output, refusals."""
import asyncio

import openai
from pydantic import BaseModel, ConfigDict

from checks import BASE, FUNCTION, SCHEMA, TOOLS, check, is_person, main, raises

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=600)
tools = openai.OpenAI(base_url=f"{TOOLS}/v1", api_key="none", max_retries=0, timeout=600)
MODEL = client.models.list().data[0].id
ASK = [{"role": "user", "content": "Speak!"}]
SHORT = {"model": MODEL, "max_tokens": 12, "temperature": 0, "seed": 7}


@check
def models():
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL and model.object == "model" and model.owned_by == "bitnetc"
    raises(openai.NotFoundError, lambda: client.models.retrieve("absent"))


@check
def chat():
    answer = client.chat.completions.create(messages=ASK, **SHORT)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == MODEL
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 12 and answer.usage.prompt_tokens_details.cached_tokens >= 0
    again = client.chat.completions.create(messages=ASK, **SHORT)
    assert again.choices[0].message.content == choice.message.content


@check
def cached_prompts():
    long = [{"role": "user", "content": "To be, or not to be, that is the question. " * 8}]
    first, second = [client.chat.completions.create(messages=long, **SHORT) for _ in range(2)]
    assert second.usage.prompt_tokens_details.cached_tokens >= second.usage.prompt_tokens - 1
    assert first.choices[0].message.content == second.choices[0].message.content


@check
def stream():
    whole = client.chat.completions.create(messages=ASK, **SHORT)
    chunks = list(client.chat.completions.create(messages=ASK, stream=True, stream_options={"include_usage": True}, **SHORT))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    assert len({c.id for c in chunks}) == 1 and all(c.object == "chat.completion.chunk" for c in chunks)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    # The library refuses a text that a limit ended only when it is asked for the final one.
    with client.chat.completions.stream(messages=ASK, **SHORT) as events:
        for _ in events:
            final = events.current_completion_snapshot
    assert final.choices[0].message.content == text


@check
def choices_and_logprobs():
    answer = client.chat.completions.create(messages=ASK, n=2, logprobs=True, top_logprobs=3, **{**SHORT, "temperature": 0.9})
    assert [c.index for c in answer.choices] == [0, 1]
    for choice in answer.choices:
        entries = choice.logprobs.content
        assert "".join(e.token for e in entries) == choice.message.content
        assert all(len(e.top_logprobs) == 3 and e.logprob <= 0 for e in entries)
    chunks = list(client.chat.completions.create(messages=ASK, n=2, stream=True, **{**SHORT, "temperature": 0.9}))
    for index in (0, 1):
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert "".join(c.delta.content or "" for c in own) == answer.choices[index].message.content
        assert own[-1].finish_reason == answer.choices[index].finish_reason


@check
def stops():
    whole = client.chat.completions.create(messages=ASK, **{**SHORT, "max_tokens": 40}).choices[0].message.content
    word = whole[8:11]
    cut = client.chat.completions.create(messages=ASK, stop=[word], **{**SHORT, "max_tokens": 40}).choices[0]
    assert cut.message.content == whole[: whole.index(word)] and cut.finish_reason == "stop"


@check
def completions():
    answer = client.completions.create(prompt="ROMEO:", **SHORT)
    text = answer.choices[0].text
    assert answer.object == "text_completion" and text
    chunks = list(client.completions.create(prompt="ROMEO:", stream=True, **SHORT))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == text
    several = client.completions.create(prompt=["ROMEO:", "JULIET:"], **SHORT)
    assert [c.index for c in several.choices] == [0, 1] and several.choices[0].text == text
    scored = client.completions.create(prompt="ROMEO:", echo=True, logprobs=1, **{**SHORT, "max_tokens": 1})
    found = scored.choices[0].logprobs
    assert scored.choices[0].text.startswith("ROMEO:") and found.token_logprobs[0] is None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    assert len(found.tokens) == scored.usage.prompt_tokens + 1
    # The first token is the one that begins every text; it is not part of the text.
    assert "".join(found.tokens[1:]) == scored.choices[0].text


@check
def structured_output():
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    is_person(client.chat.completions.create(messages=ASK, response_format=form, **{**SHORT, "max_tokens": 120}).choices[0].message.content)

    class Person(BaseModel):
        model_config = ConfigDict(extra="forbid")
        likes_tea: bool

    parsed = client.chat.completions.parse(messages=ASK, response_format=Person, **{**SHORT, "max_tokens": 60})
    assert isinstance(parsed.choices[0].message.parsed.likes_tea, bool)


@check
def tool_calls():
    request = {"messages": [{"role": "user", "content": "Weather?"}], "tools": [{"type": "function", "function": FUNCTION}], "parallel_tool_calls": False, **SHORT, "max_tokens": 400}
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        answer = tools.chat.completions.create(tool_choice=choice, **request).choices[0]
        call = answer.message.tool_calls[0]
        assert answer.finish_reason == "tool_calls" and call.function.name == "weather" and call.id
        assert call.function.arguments and '"city"' in call.function.arguments
    chunks = list(tools.chat.completions.create(tool_choice="required", stream=True, **request))
    deltas = [d for c in chunks if c.choices for d in c.choices[0].delta.tool_calls or []]
    assert deltas[0].id and deltas[0].function.name == "weather" and all(d.index == 0 for d in deltas)
    assert "".join(d.function.arguments or "" for d in deltas) == call.function.arguments
    messages = request["messages"] + [
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    tools.chat.completions.create(**{**request, "messages": messages, "tool_choice": "none"})
    error = raises(openai.BadRequestError, lambda: client.chat.completions.create(**request))
    assert "tools" in str(error), "a template that has no tools refuses them"


@check
def responses():
    answer = client.responses.create(model=MODEL, input="Speak!", max_output_tokens=16, temperature=0, store=False)
    assert answer.object == "response" and answer.status in ("completed", "incomplete") and answer.output_text
    events = list(client.responses.create(model=MODEL, input="Speak!", max_output_tokens=16, temperature=0, store=False, stream=True))
    assert events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete")
    assert [e.sequence_number for e in events] == sorted({e.sequence_number for e in events})
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == answer.output_text == events[-1].response.output_text
    raises(openai.BadRequestError, lambda: client.responses.create(model=MODEL, input="x", previous_response_id="resp_1"))


@check
def refusals():
    for body, param in [({"messages": []}, "messages"), ({"temperature": "warm"}, "temperature"), ({"response_format": {"type": "x"}}, "response_format")]:
        error = raises(openai.BadRequestError, lambda: client.chat.completions.create(**{**SHORT, "messages": ASK, **body}))
        assert error.type == "invalid_request_error" and param in str(error.param), (param, error.body)
    error = raises(openai.BadRequestError, lambda: client.chat.completions.create(messages=[{"role": "user", "content": "word " * 9000}], **SHORT))
    assert error.code == "context_length_exceeded" and "maximum context length is" in str(error)
    # A permanent refusal is not tried again.
    sent = []
    counting = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    patient = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=2, http_client=counting)
    error = raises(openai.APIStatusError, lambda: patient.embeddings.create(model=MODEL, input="x"))
    assert 400 <= error.status_code < 500 and len(sent) == 1, (error, sent)


@check
def many_at_once():
    alone = client.chat.completions.create(messages=ASK, **SHORT).choices[0].message.content

    async def ask():
        many = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0)
        return await asyncio.gather(*[many.chat.completions.create(messages=ASK, **SHORT) for _ in range(12)])

    assert {a.choices[0].message.content for a in asyncio.run(ask())} == {alone}


main()
