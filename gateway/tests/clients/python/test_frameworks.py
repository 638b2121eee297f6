"""What people build with: LangChain, LiteLLM, Instructor and the `llm` command, each as its manual shows it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

# Nothing but the server under test may be asked, also not for prices or telemetry.
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false", LITELLM_TELEMETRY="False")

import instructor
import litellm
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

from harness import KEY, MODEL, URL, run

EMBEDDER = os.environ["SPILLWAY_EMBEDDER"]
QUESTION = "What is the weather in Rome, in C?"


class Weather(BaseModel):
    """Weather of a city."""

    # A small model would go on adding fields of its own.
    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    unit: Literal["C", "F"]


@tool
def get_weather(city: Literal["Paris", "Rome"], unit: Literal["C", "F"]) -> str:
    """Weather of a city."""
    return "20 degrees"


chain = ChatOpenAI(base_url=URL, api_key=KEY, model=MODEL, temperature=0, max_tokens=120, max_retries=0, timeout=120)


def langchain_answers_and_streams():
    answer = chain.invoke(QUESTION)
    assert answer.content and answer.usage_metadata["output_tokens"] > 0, answer
    pieces = list(chain.stream(QUESTION, stream_usage=True))
    assert len(pieces) > 2 and "".join(piece.content for piece in pieces) == answer.content, pieces
    assert pieces[-1].usage_metadata or pieces[-2].usage_metadata, pieces[-2:]


def langchain_tools():
    bound = chain.bind_tools([get_weather], tool_choice="get_weather", strict=True)
    answer = bound.invoke(QUESTION)
    [call] = answer.tool_calls
    assert call["name"] == "get_weather", call
    Weather.model_validate(call["args"])
    streamed = None
    for piece in bound.stream(QUESTION):
        streamed = piece if streamed is None else streamed + piece
    assert streamed.tool_calls[0]["args"] == call["args"], streamed
    final = chain.bind_tools([get_weather], tool_choice="none").invoke([("user", QUESTION), answer, get_weather.invoke(call)])
    assert final.content, final


def langchain_structured():
    for method in ("json_schema", "function_calling"):
        answer = chain.with_structured_output(Weather, method=method).invoke(QUESTION)
        assert isinstance(answer, Weather), (method, answer)


def langchain_responses():
    other = ChatOpenAI(base_url=URL, api_key=KEY, model=MODEL, temperature=0, max_tokens=60, use_responses_api=True, max_retries=0)
    answer = other.invoke(QUESTION)
    assert answer.text and answer.id.startswith("resp_"), answer
    assert "".join(piece.text for piece in other.stream(QUESTION)) == answer.text


def langchain_embeddings():
    # The tokens that this client counts are those of other models; the server counts its own.
    embeddings = OpenAIEmbeddings(base_url=URL, api_key=KEY, model=EMBEDDER, check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(["It is sunny.", "He drives."])
    assert [len(vector) for vector in vectors] == [384, 384]
    assert len(embeddings.embed_query("weather")) == 384


OPTIONS = {"api_base": URL, "api_key": KEY, "temperature": 0, "max_tokens": 120, "num_retries": 0, "timeout": 120}


def litellm_answers_and_streams():
    messages = [{"role": "user", "content": QUESTION}]
    answer = litellm.completion(model=f"openai/{MODEL}", messages=messages, **OPTIONS)
    text = answer.choices[0].message.content
    assert text and answer.usage.completion_tokens > 0, answer
    pieces = litellm.completion(model=f"openai/{MODEL}", messages=messages, stream=True, stream_options={"include_usage": True}, **OPTIONS)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text
    other = litellm.completion(model=f"hosted_vllm/{MODEL}", messages=messages, **OPTIONS)
    assert other.choices[0].message.content == text, other


def litellm_tools_and_formats():
    messages = [{"role": "user", "content": QUESTION}]
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]
    answer = litellm.completion(model=f"openai/{MODEL}", messages=messages, tools=tools, tool_choice="required", **OPTIONS)
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments)["city"] in ("Paris", "Rome"), answer
    answer = litellm.completion(model=f"openai/{MODEL}", messages=messages, response_format=Weather, **OPTIONS)
    Weather.model_validate_json(answer.choices[0].message.content)


def litellm_embeddings_and_errors():
    answer = litellm.embedding(model=f"openai/{EMBEDDER}", input=["It is sunny."], api_base=URL, api_key=KEY, encoding_format="float")
    assert len(answer.data[0]["embedding"]) == 384, answer
    for kind, options in ((litellm.AuthenticationError, {"api_key": "sk-sw-wrong"}), (litellm.NotFoundError, {"model": "openai/none"})):
        try:
            litellm.completion(**{"model": f"openai/{MODEL}", "messages": [{"role": "user", "content": "Hi"}], **OPTIONS, **options})
            raise AssertionError(f"no {kind.__name__}")
        except kind:
            pass


def instructor_models():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(OpenAI(base_url=URL, api_key=KEY, max_retries=0), mode=mode)
        answer = client.chat.completions.create(
            model=MODEL, response_model=Weather, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=120, max_retries=0,
        )
        assert isinstance(answer, Weather), (mode, answer)


def llm_command():
    with tempfile.TemporaryDirectory() as folder:
        models = [{"model_id": "here", "model_name": MODEL, "api_base": URL, "api_key_name": "spillway", "supports_schema": True, "supports_tools": True}]
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps(models))
        Path(folder, "keys.json").write_text(json.dumps({"spillway": KEY}))
        environment = {**os.environ, "LLM_USER_PATH": folder}

        def command(*arguments):
            line = [str(Path(sys.executable).with_name("llm")), "-m", "here", "-o", "temperature", "0", "-o", "max_tokens", "60", *arguments]
            done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout.strip()

        text = command("--no-stream", "Name three rivers.")
        assert text and command("Name three rivers.") == text, text
        schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": False}
        assert json.loads(command("--schema", json.dumps(schema), QUESTION))["city"] in ("Paris", "Rome")


CHECKS = [
    langchain_answers_and_streams,
    langchain_tools,
    langchain_structured,
    langchain_responses,
    langchain_embeddings,
    litellm_answers_and_streams,
    litellm_tools_and_formats,
    litellm_embeddings_and_errors,
    instructor_models,
    llm_command,
]


run([(check.__name__, check) for check in CHECKS])
