"""The official Python client's Responses against a Spillway server.

Usages are translated into the words of chat completions.
"""

import asyncio
import time

import openai
from openai import AsyncOpenAI, OpenAI

from harness import KEY, MODEL, URL, run, say

OPTIONS = {"base_url": URL, "api_key": KEY, "max_retries": 0, "timeout": 120}

client = OpenAI(**OPTIONS)


def saw(request_id, usage):
    usage = {
        "prompt_tokens": usage.input_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.input_tokens_details.cached_tokens},
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    say("usage", {"request_id": request_id, "usage": usage})


def answer(text="Name three rivers.", **options):
    options.setdefault("max_output_tokens", 24)
    response = client.responses.create(model=MODEL, input=text, **options)
    saw(response._request_id, response.usage)
    return response


def one_response():
    response = answer(temperature=0, instructions="Be brief.", metadata={"a": "b"})
    assert response.object == "response" and response.model == MODEL, response
    assert response.status in ("completed", "incomplete") and response.output_text, response
    assert response.metadata == {"a": "b"} and response.instructions == "Be brief.", response
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens, response


def stream():
    events = client.responses.create(
        model=MODEL, input="Name three rivers.", max_output_tokens=24, temperature=0, stream=True
    )
    text, final, last = "", None, -1
    for event in events:
        assert event.sequence_number == last + 1, event
        last = event.sequence_number
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    saw(events.response.headers["x-request-id"], final.usage)
    assert text == final.output_text == answer(temperature=0).output_text, (text, final)


def stream_helper():
    with client.responses.stream(
        model=MODEL, input="Name three rivers.", max_output_tokens=24, temperature=0, text={"format": {"type": "text"}}
    ) as events:
        told = list(events)
        saw(events._response.headers["x-request-id"], told[-1].response.usage)
    kinds = [event.type for event in told]
    assert kinds[0] == "response.created" and "response.output_text.delta" in kinds, kinds
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds


def parsed():
    response = client.responses.parse(model=MODEL, input="Name three rivers.", max_output_tokens=8)
    saw(response._request_id, response.usage)
    assert response.output_text and response.output[0].content[0].parsed is None, response


def conversation():
    first = answer("My name is Ada.")
    second = answer("Who am I?", previous_response_id=first.id)
    assert second.previous_response_id == first.id, second
    by_hand = client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": "My name is Ada."}, *first.output, {"role": "user", "content": "Who am I?"}],
        max_output_tokens=1,
    )
    saw(by_hand._request_id, by_hand.usage)
    assert by_hand.usage.input_tokens == second.usage.input_tokens, (by_hand, second)


def kept():
    response = answer()
    again = client.responses.retrieve(response.id)
    assert again.output_text == response.output_text and again.usage == response.usage, again
    items = client.responses.input_items.list(response.id)
    assert [item.content[0].text for item in items] == ["Name three rivers."], items
    client.responses.delete(response.id)
    fails(openai.NotFoundError, "response_not_found", lambda: client.responses.retrieve(response.id))


def counted():
    count = client.responses.input_tokens.count(model=MODEL, input="Name three rivers.")
    assert count.input_tokens == answer().usage.input_tokens, count


def logprobs():
    response = answer(temperature=0, include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=5)
    entries = response.output[0].content[0].logprobs
    assert len(entries) in (4, 5) and all(len(entry.top_logprobs) == 2 for entry in entries), entries


def background():
    ignore = {"ignore_eos": True}
    response = client.responses.create(
        model=MODEL, input="Tell a story.", max_output_tokens=30, background=True, extra_body=ignore
    )
    request_id = response._request_id
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert response.status == "incomplete" and response.usage.output_tokens == 30, response
    saw(request_id, response.usage)

    stream = client.responses.create(
        model=MODEL, input="Tell a story.", max_output_tokens=1400, background=True, stream=True, extra_body=ignore
    )
    request_id = stream.response.headers["x-request-id"]
    id, last = None, None
    for event in stream:
        id = event.response.id if event.type == "response.created" else id
        last = event.sequence_number
        if last == 9:
            break
    stream.close()
    resumed = client.responses.retrieve(id, stream=True, starting_after=last)
    assert next(iter(resumed)).sequence_number == last + 1
    resumed.close()
    cancelled = client.responses.cancel(id)
    assert cancelled.status == "cancelled", cancelled
    saw(request_id, cancelled.usage)


def fails(kind, code, call):
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind and error.code == code and error.request_id, error
        return error
    raise AssertionError(f"no {kind.__name__}")


def errors():
    error = fails(openai.BadRequestError, "unknown_parameter", lambda: answer(extra_body={"nonsense": 1}))
    assert error.param == "nonsense", error
    fails(openai.BadRequestError, "previous_response_not_found", lambda: answer(previous_response_id="resp_none"))
    fails(openai.BadRequestError, "context_length_exceeded", lambda: answer("word " * 9000))
    fails(openai.NotFoundError, "response_not_found", lambda: client.responses.cancel("resp_none"))


def connection():
    def turn(socket, text, **options):
        options = {"model": MODEL, "max_output_tokens": 16, "store": False, "input": text, **options}
        socket.send({"type": "response.create", **options})
        for number, event in enumerate(socket):
            assert event.sequence_number == number, event
            if event.type in ("response.completed", "response.incomplete"):
                saw(event.response.id.replace("resp_", "req_"), event.response.usage)
                return event.response
        raise AssertionError("the connection ended")

    with client.responses.connect() as socket:
        first = turn(socket, "Remember the code word: cobalt.")
        second = turn(socket, "What is it?", previous_response_id=first.id)
        assert second.output_text and second.usage.input_tokens > first.usage.input_tokens, (first, second)
        socket.send({"type": "response.create", "model": MODEL, "input": "x", "previous_response_id": first.id})
        refused = next(iter(socket))
        assert refused.type == "error" and refused.error.code == "previous_response_not_found", refused
        turn(socket, "Hi")


def compacted():
    made = client.responses.compact(
        model=MODEL,
        input=[{"role": "user", "content": "We launch on Tuesday."}, {"role": "assistant", "content": "Understood."}],
    )
    saw(made._request_id, made.usage)
    assert [item.type for item in made.output] == ["message", "compaction"], made
    window = [item.model_dump(exclude_none=True) for item in made.output]
    response = answer(window + [{"role": "user", "content": "When do we launch?"}])
    assert response.usage.input_tokens > made.usage.output_tokens, response


def leaving():
    stream = client.responses.create(
        model=MODEL, input="Tell a long story.", max_output_tokens=1400, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = 0
    for event in stream:
        chunks += event.type == "response.output_text.delta"
        if chunks == 5:
            break
    stream.close()
    say("left", {"request_id": stream.response.headers["x-request-id"], "content_chunks": chunks})


async def asynchronous():
    async with AsyncOpenAI(**OPTIONS) as other:
        response = await other.responses.create(model=MODEL, input="Hi", max_output_tokens=4)
        saw(response._request_id, response.usage)
        stream = await other.responses.create(model=MODEL, input="Hi", max_output_tokens=4, stream=True)
        final = [event async for event in stream][-1].response
        saw(stream.response.headers["x-request-id"], final.usage)


def run_asynchronous():
    asyncio.run(asynchronous())


CHECKS = [
    one_response,
    stream,
    stream_helper,
    parsed,
    conversation,
    kept,
    counted,
    logprobs,
    background,
    connection,
    compacted,
    errors,
    leaving,
    run_asynchronous,
]


run([(check.__name__, check) for check in CHECKS])
