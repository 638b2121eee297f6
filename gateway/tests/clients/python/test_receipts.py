"""Signed receipts inside answers, as the official clients of OpenAI and Anthropic hand them over."""

import os

from anthropic import Anthropic
from openai import OpenAI

from harness import KEY, MODEL, URL, run, say

EMBEDDER = os.environ["SPILLWAY_EMBEDDER"]
HEADERS = {"x-spillway-receipt": "true"}
client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120, default_headers=HEADERS)
claude = Anthropic(
    base_url=URL.removesuffix("/v1"), api_key=KEY, max_retries=0, timeout=120, default_headers=HEADERS
)
MESSAGES = [{"role": "user", "content": "Name three rivers."}]


def keep(answer, request_id, output_tokens):
    """An answer or event as a customer would keep it."""
    receipt = answer.receipt
    assert receipt["request_id"] == request_id and len(receipt["signature"]) == 128, receipt
    assert receipt["output_tokens"] == output_tokens, receipt
    say("kept", answer.model_dump(mode="json", warnings=False))


def last(chunks):
    chunks = list(chunks)
    assert all(getattr(chunk, "receipt", None) is None for chunk in chunks[:-1]), chunks
    return chunks[-1]


def chat():
    reply = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4)
    keep(reply, reply._request_id, reply.usage.completion_tokens)


def chat_stream():
    for options in ({"stream_options": {"include_usage": True}}, {}):
        stream = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=4, stream=True, temperature=0, **options
        )
        chunk = last(stream)
        assert chunk.choices == [] and bool(chunk.usage) == bool(options), chunk
        keep(chunk, stream.response.headers["x-request-id"], chunk.receipt["output_tokens"])


def chat_stream_helper():
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, max_tokens=64, temperature=0, stop=[" ", "\n", "."]
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content is not None


def completions():
    reply = client.completions.create(model=MODEL, prompt="Rivers:", max_tokens=4)
    keep(reply, reply._request_id, reply.usage.completion_tokens)
    stream = client.completions.create(model=MODEL, prompt="Rivers:", max_tokens=4, stream=True)
    chunk = last(stream)
    keep(chunk, stream.response.headers["x-request-id"], chunk.receipt["output_tokens"])


def responses():
    reply = client.responses.create(model=MODEL, input="Name three rivers.", max_output_tokens=4)
    keep(reply, reply._request_id, reply.usage.output_tokens)
    stored = client.responses.retrieve(reply.id)
    assert stored.receipt == reply.receipt, stored
    stream = client.responses.create(model=MODEL, input="Name three rivers.", max_output_tokens=4, stream=True)
    event = list(stream)[-1]
    final = event.response
    assert final.receipt["output_tokens"] == final.usage.output_tokens, final
    say("kept", event.model_dump(mode="json", warnings=False))


def background():
    reply = client.responses.create(model=MODEL, input="Hi", max_output_tokens=4, background=True)
    while reply.status in ("queued", "in_progress"):
        reply = client.responses.retrieve(reply.id)
    keep(reply, f"req_{reply.id.removeprefix('resp_')}", reply.usage.output_tokens)


def embeddings():
    reply = client.embeddings.create(model=EMBEDDER, input=["a river", "a lake"])
    assert len(reply.data) == 2, reply
    receipt = reply.receipt
    assert receipt["uncached_input_tokens"] == reply.usage.prompt_tokens, receipt
    say("kept", {"receipt": receipt})


def messages():
    reply = claude.messages.create(model=MODEL, messages=MESSAGES, max_tokens=4)
    keep(reply, reply._request_id, reply.usage.output_tokens)


def messages_stream():
    events = list(claude.messages.create(model=MODEL, messages=MESSAGES, max_tokens=4, stream=True))
    (delta,) = [event for event in events if event.type == "message_delta"]
    keep(delta, delta.receipt["request_id"], delta.usage.output_tokens)


def messages_stream_helper():
    with claude.messages.stream(model=MODEL, messages=MESSAGES, max_tokens=4) as stream:
        message = stream.get_final_message()
    assert message.usage.output_tokens and message.content[0].text is not None, message


CHECKS = [
    chat,
    chat_stream,
    chat_stream_helper,
    completions,
    responses,
    background,
    embeddings,
    messages,
    messages_stream,
    messages_stream_helper,
]

run([(check.__name__, check) for check in CHECKS])
