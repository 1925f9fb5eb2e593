"""`langchain-openai`: chats, streams, texts, structured output by schema and by function, tools, refusals."""
import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

from checks import BASE, TOOLS, check, main, raises


def chat(base, **more):
    return ChatOpenAI(base_url=f"{base}/v1", api_key="none", model="bitnetc", temperature=0, max_retries=0, **{"max_tokens": 16, **more})


class Weather(BaseModel):
    """The weather in a city."""

    warm: bool = Field(description="whether it is warm")


@check
def messages():
    model = chat(BASE)
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage("Speak!")])
    assert answer.content and answer.usage_metadata["output_tokens"] <= 16
    streamed = None
    for chunk in chat(BASE, stream_usage=True).stream([SystemMessage("Be brief."), HumanMessage("Speak!")]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.content == answer.content and streamed.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"]
    assert len(model.batch(["Speak!", "Be silent!", "Speak!"])) == 3


@check
def texts():
    model = OpenAI(base_url=f"{BASE}/v1", api_key="none", model="bitnetc", temperature=0, max_tokens=8, max_retries=0)
    assert model.invoke("ROMEO:") == "".join(model.stream("ROMEO:"))


@check
def structured_output():
    by_schema = chat(BASE, max_tokens=60).with_structured_output(Weather, method="json_schema")
    assert isinstance(by_schema.invoke("Is it warm?"), Weather)
    by_function = chat(TOOLS, max_tokens=400).with_structured_output(Weather, method="function_calling")
    assert isinstance(by_function.invoke("Is it warm?"), Weather)


@check
def tools():
    model = chat(TOOLS, max_tokens=400).bind_tools([Weather], tool_choice="any")
    answer = model.invoke("Is it warm?")
    assert isinstance(answer, AIMessage) and answer.tool_calls[0]["name"] == "Weather"
    result = ToolMessage("yes", tool_call_id=answer.tool_calls[0]["id"])
    assert chat(TOOLS).bind_tools([Weather], tool_choice="none").invoke([HumanMessage("Is it warm?"), answer, result]) is not None


@check
def refusals():
    raises(openai.BadRequestError, lambda: chat(BASE).invoke("word " * 9000))
    embeddings = OpenAIEmbeddings(base_url=f"{BASE}/v1", api_key="none", model="bitnetc", max_retries=0, check_embedding_ctx_length=False)
    raises(openai.APIStatusError, lambda: embeddings.embed_query("x"))


main()
