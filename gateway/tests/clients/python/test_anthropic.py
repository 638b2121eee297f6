"""The official Anthropic client against a Spillway server.

Usages are translated into the words of chat completions.
"""

import asyncio

import anthropic
from anthropic import Anthropic, AsyncAnthropic

from harness import KEY, LIMITED, MODEL, POOR, URL, run, say

BASE = URL.removesuffix("/v1")

client = Anthropic(base_url=BASE, api_key=KEY, max_retries=0, timeout=120)


def saw(request_id, usage):
    prompt = usage.input_tokens + usage.cache_read_input_tokens
    say(
        "usage",
        {
            "request_id": request_id,
            "usage": {
                "prompt_tokens": prompt,
                "prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens},
                "completion_tokens": usage.output_tokens,
                "total_tokens": prompt + usage.output_tokens,
            },
        },
    )


# The client has no parameters of its own for sampling any more; they travel beside them.
GREEDY = {"temperature": 0}


def user(text):
    return [{"role": "user", "content": text}]


def answer(text="Name three rivers.", **options):
    options.setdefault("max_tokens", 24)
    message = client.messages.create(model=MODEL, messages=user(text), **options)
    saw(message._request_id, message.usage)
    return message


def one_message():
    message = answer(extra_body=GREEDY, system="Be brief.", metadata={"user_id": "u-1"})
    assert message.type == "message" and message.role == "assistant" and message.model == MODEL, message
    assert message.id.startswith("msg_") and message.content[0].type == "text", message
    assert message.content[0].text and message.stop_reason in ("end_turn", "max_tokens"), message
    assert message.usage.cost_usd, message


def raw_stream():
    stream = client.messages.create(
        model=MODEL, messages=user("Name three rivers."), max_tokens=24, extra_body=GREEDY, stream=True
    )
    events = list(stream)
    kinds = [event.type for event in events if event.type not in ("content_block_delta", "ping")]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ], kinds
    start, delta = events[0], events[-2]
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == answer(extra_body=GREEDY).content[0].text, text
    assert start.message.usage.input_tokens + start.message.usage.cache_read_input_tokens > 0, start
    saw(stream.response.headers["request-id"], delta.usage)


def stream_helper():
    with client.messages.stream(
        model=MODEL, messages=user("Name three rivers."), max_tokens=24, extra_body=GREEDY
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
        saw(stream.response.headers["request-id"], final.usage)
    assert final.content[0].text == text and final.stop_reason in ("end_turn", "max_tokens"), final


def stop_sequences():
    whole = answer(extra_body=GREEDY).content[0].text
    stop = whole[6:12]
    message = answer(extra_body=GREEDY, stop_sequences=[stop])
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == stop, message
    assert message.content[0].text == whole.split(stop)[0], message
    assert answer(max_tokens=1).stop_reason == "max_tokens"


def several_turns():
    messages = user("My name is Ada.") + [
        {"role": "assistant", "content": [{"type": "text", "text": "Hello Ada."}]},
        {"role": "user", "content": [{"type": "text", "text": "Who am I?", "cache_control": {"type": "ephemeral"}}]},
    ]
    message = client.messages.create(model=MODEL, messages=messages, max_tokens=8, system=[{"type": "text", "text": "Help."}])
    saw(message._request_id, message.usage)
    follow = messages + [message.to_param(), {"role": "user", "content": "Go on."}]
    again = client.messages.create(model=MODEL, messages=follow, max_tokens=4)
    saw(again._request_id, again.usage)


def counted():
    count = client.messages.count_tokens(model=MODEL, messages=user("Name three rivers."), system="Be brief.")
    usage = answer(system="Be brief.").usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, (count, usage)


def fails(kind, call, error_type):
    try:
        call()
    except anthropic.APIStatusError as error:
        assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {error}"
        assert error.type == error_type, f"type {error.type}: {error}"
        assert error.request_id and error.body["request_id"] == error.request_id, error.body
        assert error.body["type"] == "error", error.body
        return error
    raise AssertionError(f"no {kind.__name__}")


def errors():
    def ask(key=KEY, model=MODEL, messages=None, **options):
        other = Anthropic(base_url=BASE, api_key=key, max_retries=0)
        options.setdefault("max_tokens", 2)
        return other.messages.create(model=model, messages=messages or user("Hi"), **options)

    fails(anthropic.AuthenticationError, lambda: ask(key="sk-sw-wrong"), "authentication_error")
    fails(anthropic.NotFoundError, lambda: ask(model="none"), "not_found_error")
    error = fails(anthropic.BadRequestError, lambda: ask(extra_body={"nonsense": 1}), "invalid_request_error")
    assert error.error_code == "unknown_parameter" and "nonsense" in error.api_message, error.body
    fails(anthropic.BadRequestError, lambda: ask(messages=user("word " * 9000)), "invalid_request_error")
    stray = lambda: client.post("/v1/messages/nonsense", cast_to=object, body={})
    fails(anthropic.NotFoundError, stray, "not_found_error")
    # A money refusal comes back at once.
    poor = Anthropic(base_url=BASE, api_key=POOR, max_retries=2)
    poor_ask = lambda: poor.messages.create(model=MODEL, messages=user("Hi"), max_tokens=1)
    fails(anthropic.PaymentRequiredError, poor_ask, "billing_error")
    message = ask(key=LIMITED)
    saw(message._request_id, message.usage)
    error = fails(anthropic.RateLimitError, lambda: ask(key=LIMITED), "rate_limit_error")
    assert int(error.response.headers["retry-after"]) >= 1


def leaving():
    stream = client.messages.create(
        model=MODEL, messages=user("Tell a very long story about a river."), max_tokens=1400, extra_body={"temperature": 1}, stream=True
    )
    chunks = 0
    for event in stream:
        chunks += event.type == "content_block_delta"
        if chunks == 5:
            break
    stream.close()
    say("left", {"request_id": stream.response.headers["request-id"], "content_chunks": chunks})


async def async_messages():
    async with AsyncAnthropic(base_url=BASE, api_key=KEY, max_retries=0, timeout=120) as other:
        message = await other.messages.create(model=MODEL, messages=user("Hi"), max_tokens=4)
        saw(message._request_id, message.usage)

        async def one(i):
            async with other.messages.stream(
                model=MODEL, messages=user(f"Tell me about the number {i}."), max_tokens=12, extra_body=GREEDY
            ) as stream:
                text = "".join([text async for text in stream.text_stream])
                final = await stream.get_final_message()
                saw(stream.response.headers["request-id"], final.usage)
                return text

        together = await asyncio.gather(*(one(i) for i in range(8)))
        assert all(together) and together[5] == await one(5), together


def run_async_messages():
    asyncio.run(async_messages())


CHECKS = [
    one_message,
    raw_stream,
    stream_helper,
    stop_sequences,
    several_turns,
    counted,
    errors,
    leaving,
    run_async_messages,
]


run([(check.__name__, check) for check in CHECKS])
