"""The official Python client against a Spillway server."""

import asyncio
import threading

from typing import Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from harness import KEY, LIMITED, MODEL, POOR, URL, run, say

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)


def saw(request_id, usage):
    say("usage", {"request_id": request_id, "usage": usage.model_dump()})


def user(text):
    return [{"role": "user", "content": text}]


def answer(text="Name three rivers.", **options):
    options.setdefault("max_tokens", 24)
    reply = client.chat.completions.create(model=MODEL, messages=user(text), **options)
    saw(reply._request_id, reply.usage)
    return reply


def consume(chunks):
    """Text by choice, finish reasons, token count by logprobs and usage of a stream."""
    texts, reasons, listed, usage = {}, {}, 0, None
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
            if choice.logprobs and choice.logprobs.content:
                listed += len(choice.logprobs.content)
        if chunk.usage:
            assert chunk.choices == [], "usage came beside choices"
            assert usage is None, "usage came twice"
            usage = chunk.usage
    return texts, reasons, listed, usage


def streamed(text="Name three rivers.", **options):
    options.setdefault("max_tokens", 24)
    stream = client.chat.completions.create(
        model=MODEL, messages=user(text), stream=True, stream_options={"include_usage": True}, **options
    )
    result = consume(stream)
    assert result[3] is not None, "no usage"
    saw(stream.response.headers["x-request-id"], result[3])
    return result


def sync_answer():
    reply = answer(temperature=0)
    assert reply.object == "chat.completion" and reply.model == MODEL, reply
    assert reply.choices[0].message.role == "assistant", reply
    assert reply.choices[0].message.content, reply
    assert reply.choices[0].finish_reason in ("stop", "length"), reply
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens, reply


def sync_stream():
    texts, reasons, _, _ = streamed(temperature=0)
    reply = answer(temperature=0)
    assert texts == {0: reply.choices[0].message.content}, (texts, reply)
    assert reasons == {0: reply.choices[0].finish_reason}, (reasons, reply)


def stream_helper():
    with client.chat.completions.stream(
        model=MODEL,
        messages=user("Name three rivers."),
        temperature=0,
        stop=[" ", "\n", "."],
        stream_options={"include_usage": True},
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
        saw(stream._response.headers["x-request-id"], final.usage)
    assert "content.delta" in kinds and "content.done" in kinds, kinds
    assert final.choices[0].message.content, final


def several_choices():
    reply = answer(n=3, temperature=1, seed=4, max_tokens=8)
    assert [c.index for c in reply.choices] == [0, 1, 2], reply
    texts, reasons, _, _ = streamed(n=2, temperature=1, seed=4, max_tokens=8)
    assert sorted(texts) == [0, 1] and sorted(reasons) == [0, 1], (texts, reasons)


def stop_strings():
    whole = answer(temperature=0).choices[0].message.content
    stop = whole[6:12]
    expected = whole.split(stop)[0]
    reply = answer(temperature=0, stop=stop)
    assert reply.choices[0].message.content == expected, (reply, expected)
    assert reply.choices[0].finish_reason == "stop", reply
    texts, reasons, _, _ = streamed(temperature=0, stop=["@@", stop])
    assert texts == {0: expected} and reasons == {0: "stop"}, (texts, reasons)


def logprobs():
    reply = answer(temperature=0, logprobs=True, top_logprobs=3, max_tokens=6)
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens or reply.choices[0].finish_reason == "stop", reply
    for entry in content:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3, entry
        assert entry.top_logprobs[0].token == entry.token, entry
    assert b"".join(bytes(e.bytes) for e in content).decode() == reply.choices[0].message.content, reply
    _, _, listed, usage = streamed(temperature=0, logprobs=True, max_tokens=6, extra_body={"ignore_eos": True})
    assert listed == usage.completion_tokens == 6, (listed, usage)


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)
    tame: bool


def parsed_answer():
    reply = client.chat.completions.parse(
        model=MODEL, messages=user("Describe a pet."), response_format=Pet, max_tokens=300, temperature=0
    )
    saw(reply._request_id, reply.usage)
    assert isinstance(reply.choices[0].message.parsed, Pet), reply


def called_tools():
    tool = openai.pydantic_function_tool(Pet, name="register", description="Registers a pet.")
    options = {"tools": [tool], "tool_choice": "required", "max_tokens": 300, "temperature": 0}
    reply = client.chat.completions.parse(
        model=MODEL, messages=user("Register a cat."), parallel_tool_calls=False, **options
    )
    saw(reply._request_id, reply.usage)
    call = reply.choices[0].message.tool_calls[0]
    assert reply.choices[0].finish_reason == "tool_calls" and isinstance(call.function.parsed_arguments, Pet), reply
    with client.chat.completions.stream(
        model=MODEL,
        messages=user("Register a cat."),
        parallel_tool_calls=False,
        stream_options={"include_usage": True},
        **options,
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
        saw(stream._response.headers["x-request-id"], final.usage)
    assert "tool_calls.function.arguments.delta" in kinds, kinds
    assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments, final
    # What the model called goes back with an answer.
    messages = user("Register a cat.") + [
        reply.choices[0].message.model_dump(exclude_unset=True),
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    after = client.chat.completions.create(model=MODEL, messages=messages, tools=[tool], max_tokens=8, tool_choice="none")
    saw(after._request_id, after.usage)


def seeds():
    one, two, other = (answer(temperature=1, seed=s).choices[0].message.content for s in (11, 11, 12))
    assert one == two and one != other, (one, two, other)


def text_completions():
    reply = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0)
    saw(reply._request_id, reply.usage)
    assert reply.object == "text_completion" and "Paris" in reply.choices[0].text, reply
    stream = client.completions.create(
        model=MODEL,
        prompt="The capital of France is",
        max_tokens=4,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    for chunk in stream:
        text += "".join(choice.text for choice in chunk.choices)
        usage = chunk.usage or usage
    saw(stream.response.headers["x-request-id"], usage)
    assert text == reply.choices[0].text, (text, reply)


def models():
    assert MODEL in [model.id for model in client.models.list()], "not listed"
    assert client.models.retrieve(MODEL).id == MODEL
    fails(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("none"))


def raw_response():
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=user("Hi"), max_tokens=2)
    names = ["limit-requests", "limit-tokens", "remaining-requests", "remaining-tokens", "reset-requests", "reset-tokens"]
    for name in ["x-ratelimit-" + name for name in names] + ["x-request-id", "openai-processing-ms"]:
        assert raw.headers.get(name), f"no {name} in {raw.headers}"
    reply = raw.parse()
    assert reply._request_id == raw.headers["x-request-id"]
    saw(reply._request_id, reply.usage)


def fails(kind, code, call):
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {error}"
        assert error.code == code, f"code {error.code}: {error}"
        assert error.request_id, "no request id"
        return error
    raise AssertionError(f"no {kind.__name__}")


def error_classes():
    def ask(key=KEY, model=MODEL, messages=None, **options):
        other = OpenAI(base_url=URL, api_key=key, max_retries=0)
        return other.chat.completions.create(model=model, messages=messages or user("Hi"), **options)

    fails(openai.AuthenticationError, "invalid_api_key", lambda: ask(key="sk-sw-wrong"))
    error = fails(openai.BadRequestError, "decimal_above_max_value", lambda: ask(temperature=3))
    assert error.param == "temperature" and error.type == "invalid_request_error", error
    fails(openai.BadRequestError, "unknown_parameter", lambda: ask(extra_body={"nonsense": 1}))
    fails(openai.BadRequestError, "context_length_exceeded", lambda: ask(messages=user("word " * 9000)))
    fails(openai.NotFoundError, "model_not_found", lambda: ask(model="none"))
    stray = lambda: client.post("/nonsense", cast_to=object, body={})
    fails(openai.NotFoundError, "unknown_url", stray)


def limits_and_budgets():
    limited = OpenAI(base_url=URL, api_key=LIMITED, max_retries=0)
    ask = lambda who: who.chat.completions.create(model=MODEL, messages=user("Hi"), max_tokens=1)
    reply = ask(limited)
    saw(reply._request_id, reply.usage)
    error = fails(openai.RateLimitError, "rate_limit_exceeded", lambda: ask(limited))
    assert int(error.response.headers["retry-after"]) >= 1
    # With retries left, a money refusal must still come back at once: it says not to retry.
    poor = OpenAI(base_url=URL, api_key=POOR, max_retries=2)
    error = fails(openai.RateLimitError, "insufficient_quota", lambda: ask(poor))
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.request.headers["x-stainless-retry-count"] == "0", "it was retried"


def leaving():
    for wanted in (1, 7, 30):
        stream = client.chat.completions.create(
            model=MODEL,
            messages=user("Tell a long story."),
            max_tokens=1500,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        chunks = 0
        for chunk in stream:
            chunks += bool(chunk.choices and chunk.choices[0].delta.content)
            if chunks == wanted:
                break
        stream.close()
        say("left", {"request_id": stream.response.headers["x-request-id"], "content_chunks": chunks})


async def async_answers():
    async with AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120) as other:
        reply = await other.chat.completions.create(model=MODEL, messages=user("Hi"), max_tokens=4)
        saw(reply._request_id, reply.usage)

        async def one(i):
            stream = await other.chat.completions.create(
                model=MODEL,
                messages=user(f"Tell me about the number {i}."),
                max_tokens=12,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
            text, usage = "", None
            async for chunk in stream:
                text += "".join(c.delta.content or "" for c in chunk.choices)
                usage = chunk.usage or usage
            saw(stream.response.headers["x-request-id"], usage)
            return text

        # 32 streams at once; what each says must not depend on the others.
        together = await asyncio.gather(*(one(i) for i in range(32)))
        assert all(together), together
        assert together[5] == await one(5)


def many_threads():
    failures = []

    def one(i):
        try:
            streamed(f"Count to {i}.", max_tokens=4)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def run_async_answers():
    asyncio.run(async_answers())


CHECKS = [
    sync_answer,
    sync_stream,
    stream_helper,
    several_choices,
    stop_strings,
    logprobs,
    parsed_answer,
    called_tools,
    seeds,
    text_completions,
    models,
    raw_response,
    error_classes,
    limits_and_budgets,
    leaving,
    run_async_answers,
    many_threads,
]


run([(check.__name__, check) for check in CHECKS])
