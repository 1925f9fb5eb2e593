"""The `ollama` package: chats and texts, streamed or not, structured output, lists, refusals."""
import ollama

from checks import BASE, SCHEMA, check, is_person, main, raises

client = ollama.Client(host=BASE)
MODEL = client.list().models[0].model
ASK = [{"role": "user", "content": "Speak!"}]
OPTIONS = {"temperature": 0, "seed": 7, "num_predict": 12}


@check
def lists():
    shown = client.show(MODEL)
    assert shown.details and shown.modelinfo is not None


@check
def chat():
    answer = client.chat(MODEL, ASK, options=OPTIONS)
    assert answer.message.role == "assistant" and answer.done and answer.done_reason in ("stop", "length")
    assert answer.eval_count <= 12 and answer.prompt_eval_count > 0 and answer.total_duration > 0
    chunks = list(client.chat(MODEL, ASK, options=OPTIONS, stream=True))
    assert "".join(c.message.content for c in chunks) == answer.message.content
    assert chunks[-1].done and chunks[-1].eval_count == answer.eval_count and not any(c.done for c in chunks[:-1])


@check
def generate():
    answer = client.generate(MODEL, "ROMEO:", raw=True, options=OPTIONS)
    assert answer.done and answer.response
    assert "".join(c.response for c in client.generate(MODEL, "ROMEO:", raw=True, options=OPTIONS, stream=True)) == answer.response


@check
def structured_output():
    is_person(client.chat(MODEL, ASK, format=SCHEMA, options={**OPTIONS, "num_predict": 120}).message.content)


@check
def refusals():
    error = raises(ollama.ResponseError, lambda: client.embed(MODEL, "x"))
    assert 400 <= error.status_code < 500 and error.error
    error = raises(ollama.ResponseError, lambda: client.chat(MODEL, [{"role": "user", "content": "word " * 9000}], options=OPTIONS))
    assert error.status_code == 400


main()
