"""The `anthropic` package: messages, streams, tools, counts of tokens, refusals."""
import anthropic

from checks import BASE, TOOLS, WEATHER, check, main, raises

client = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0)
tools = anthropic.Anthropic(base_url=TOOLS, api_key="none", max_retries=0)
ASK = [{"role": "user", "content": "Speak!"}]
SHORT = {"model": "bitnetc", "max_tokens": 16, "extra_body": {"temperature": 0}}


@check
def messages():
    answer = client.messages.create(messages=ASK, system="Be brief.", **SHORT)
    assert answer.type == "message" and answer.role == "assistant" and answer.content[0].type == "text"
    assert answer.stop_reason in ("end_turn", "max_tokens", "stop_sequence")
    assert answer.usage.input_tokens > 0 and 0 < answer.usage.output_tokens <= 16
    parts = client.messages.create(messages=[{"role": "user", "content": [{"type": "text", "text": "Speak!"}]}], system="Be brief.", **SHORT)
    assert parts.content[0].text == answer.content[0].text


@check
def stream():
    whole = client.messages.create(messages=ASK, **SHORT)
    with client.messages.stream(messages=ASK, **SHORT) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text and final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "content_block_delta" in kinds


@check
def stop_sequences():
    whole = client.messages.create(messages=ASK, **{**SHORT, "max_tokens": 40}).content[0].text
    word = whole[6:9]
    cut = client.messages.create(messages=ASK, stop_sequences=[word], **{**SHORT, "max_tokens": 40})
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == word
    assert "".join(block.text for block in cut.content) == whole[: whole.index(word)]


@check
def tool_use():
    request = {"messages": ASK, "tools": [{"name": "weather", "description": "The weather", "input_schema": WEATHER}], **SHORT, "max_tokens": 400}
    answer = tools.messages.create(tool_choice={"type": "any", "disable_parallel_tool_use": True}, **request)
    use = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use" and use.name == "weather" and use.input["city"] in ("Paris", "Rome") and use.id
    with tools.messages.stream(tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True}, **request) as stream:
        streamed = stream.get_final_message()
    assert [b.input for b in streamed.content if b.type == "tool_use"] == [use.input]
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}
    history = [*ASK, {"role": "assistant", "content": [block.model_dump() for block in answer.content]}, result]
    tools.messages.create(**{**request, "messages": history, "tool_choice": {"type": "none"}})


@check
def counts():
    counted = client.messages.count_tokens(model="bitnetc", messages=ASK)
    usage = client.messages.create(messages=ASK, **SHORT).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@check
def refusals():
    error = raises(anthropic.BadRequestError, lambda: client.messages.create(messages=[], **SHORT))
    assert error.body["type"] == "error" and error.body["error"]["type"] == "invalid_request_error", error.body
    raises(anthropic.BadRequestError, lambda: client.messages.create(messages=ASK, **{**SHORT, "extra_body": {"temperature": "warm"}}))
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    error = raises(anthropic.BadRequestError, lambda: client.messages.create(messages=[{"role": "user", "content": [image]}], **SHORT))
    assert "image" in str(error)
    long = [{"role": "user", "content": "word " * 9000}]
    raises(anthropic.BadRequestError, lambda: client.messages.create(messages=long, **SHORT))


main()
