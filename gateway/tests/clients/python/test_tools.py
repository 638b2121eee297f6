"""Tools and structured answers with the official clients: chat, Responses, Messages; at once and as streams."""

import json
from typing import Literal

import openai
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

from harness import KEY, MODEL, URL, run

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
anthropic = Anthropic(base_url=URL.removesuffix("/v1"), api_key=KEY, max_retries=0, timeout=120)
CITIES, UNITS = ["Paris", "Rome"], ["C", "F"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}, "unit": {"type": "string", "enum": UNITS}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
QUESTION = "What is the weather in Rome, in C?"
CHAT = {"model": MODEL, "max_tokens": 120, "temperature": 0}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA, "strict": True}}
FLAT = {"type": "function", "name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA, "strict": True}
OWN = {"name": "get_weather", "description": "Weather of a city", "input_schema": SCHEMA}


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    unit: Literal["C", "F"]


def user(text=QUESTION):
    return [{"role": "user", "content": text}]


def is_weather(arguments):
    Weather.model_validate(json.loads(arguments) if isinstance(arguments, str) else arguments)


def chat_call_and_answer():
    messages = user()
    reply = client.chat.completions.create(messages=messages, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **CHAT)
    assert reply.choices[0].finish_reason == "tool_calls", reply
    [call] = reply.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and call.type == "function", call
    is_weather(call.function.arguments)
    # The client's own object goes back as it came.
    messages += [reply.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "20 degrees, sunny"}]
    final = client.chat.completions.create(messages=messages, tools=[TOOL], tool_choice="none", **CHAT)
    assert final.choices[0].message.content and final.choices[0].finish_reason in ("stop", "length"), final


def chat_stream_of_a_call():
    with client.chat.completions.stream(messages=user(), tools=[TOOL], tool_choice="required", **CHAT) as stream:
        pieces = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0]
    assert len(pieces) > 2 and final.choices[0].finish_reason == "tool_calls", (pieces, final)
    is_weather(call.function.arguments)


def chat_choices():
    named = {"type": "function", "function": {"name": "get_weather"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    other = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
    for choice in (named, allowed):
        reply = client.chat.completions.create(messages=user(), tools=[other, TOOL], tool_choice=choice, **CHAT)
        names = {call.function.name for call in reply.choices[0].message.tool_calls}
        assert names == {"get_weather"}, names
    free = client.chat.completions.create(messages=user(), tools=[other, TOOL], tool_choice="auto", **CHAT)
    assert free.choices[0].finish_reason in ("stop", "length", "tool_calls"), free


def chat_parsed():
    reply = client.chat.completions.parse(messages=user(), response_format=Weather, **CHAT)
    assert isinstance(reply.choices[0].message.parsed, Weather), reply
    tool = openai.pydantic_function_tool(Weather, name="get_weather")
    reply = client.chat.completions.parse(messages=user(), tools=[tool], tool_choice="required", **CHAT)
    assert isinstance(reply.choices[0].message.tool_calls[0].function.parsed_arguments, Weather), reply


def chat_parsed_stream():
    with client.chat.completions.stream(messages=user(), response_format=Weather, **CHAT) as stream:
        parsed = [event.parsed for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Weather) and len(parsed) > 2, (parsed, final)


def chat_cut():
    """A cut answer is no answer: the client says so instead of giving half of one."""
    try:
        client.chat.completions.parse(messages=user(), response_format=Weather, **{**CHAT, "max_tokens": 3})
    except openai.LengthFinishReasonError:
        return
    raise AssertionError("half an answer was parsed")


def responses_call_and_answer():
    options = {"model": MODEL, "tools": [FLAT], "temperature": 0, "max_output_tokens": 120}
    first = client.responses.create(input=QUESTION, tool_choice="required", parallel_tool_calls=False, **options)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert first.status == "completed" and call.name == "get_weather", first
    is_weather(call.arguments)
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees, sunny"}
    second = client.responses.create(input=[answer], previous_response_id=first.id, tool_choice="none", **options)
    assert second.output_text, second
    # The same without the server's memory: all items go back.
    items = [{"role": "user", "content": QUESTION}, *first.output, answer]
    third = client.responses.create(input=items, tool_choice="none", store=False, **options)
    assert third.output_text == second.output_text, (second, third)


def responses_stream_of_a_call():
    stream = client.responses.create(
        model=MODEL, input=QUESTION, tools=[FLAT], tool_choice={"type": "function", "name": "get_weather"}, temperature=0,
        max_output_tokens=120, stream=True,
    )
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    [done] = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == done.arguments and len(pieces) > 2, (pieces, done)
    is_weather(done.arguments)
    assert events[-1].type == "response.completed", events[-1]


def responses_parsed():
    response = client.responses.parse(model=MODEL, input=QUESTION, text_format=Weather, temperature=0, max_output_tokens=120)
    assert isinstance(response.output_parsed, Weather), response
    cut = client.responses.create(
        model=MODEL, input=QUESTION, temperature=0, max_output_tokens=3,
        text={"format": {"type": "json_schema", "name": "w", "schema": SCHEMA, "strict": True}},
    )
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens", cut
    assert cut.text.format.type == "json_schema" and cut.text.format.schema_ == SCHEMA, cut.text


def messages_call_and_answer():
    options = {"model": MODEL, "max_tokens": 120, "tools": [OWN], "extra_body": {"temperature": 0}}
    messages = user()
    reply = anthropic.messages.create(messages=messages, tool_choice={"type": "any", "disable_parallel_tool_use": True}, **options)
    [call] = [block for block in reply.content if block.type == "tool_use"]
    assert reply.stop_reason == "tool_use" and call.name == "get_weather", reply
    is_weather(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "20 degrees, sunny"}
    messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    final = anthropic.messages.create(messages=messages, tool_choice={"type": "none"}, **options)
    assert final.content[0].type == "text" and final.stop_reason in ("end_turn", "max_tokens"), final


def messages_stream_of_a_call():
    with anthropic.messages.stream(
        model=MODEL, max_tokens=120, messages=user(), tools=[OWN], tool_choice={"type": "tool", "name": "get_weather"},
        extra_body={"temperature": 0},
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    [call] = [block for block in final.content if block.type == "tool_use"]
    assert len(pieces) > 2 and final.stop_reason == "tool_use", (pieces, final)
    is_weather(call.input)


def messages_parsed():
    format = {"format": {"type": "json_schema", "schema": SCHEMA}}
    reply = anthropic.messages.create(model=MODEL, max_tokens=120, messages=user(), extra_body={"temperature": 0, "output_config": format})
    is_weather(reply.content[0].text)


CHECKS = [
    chat_call_and_answer,
    chat_stream_of_a_call,
    chat_choices,
    chat_parsed,
    chat_parsed_stream,
    chat_cut,
    responses_call_and_answer,
    responses_stream_of_a_call,
    responses_parsed,
    messages_call_and_answer,
    messages_stream_of_a_call,
    messages_parsed,
]


run([(check.__name__, check) for check in CHECKS])
