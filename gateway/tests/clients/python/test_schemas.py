"""Answers that are held to a schema, each checked by a validator that knows nothing of the server.

The schemas go through chat, Responses, Messages and calls of a tool in turn. Prints `schemas {...}` with the counts.
"""

import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jiter
from anthropic import Anthropic
from jsonschema import Draft202012Validator
from openai import OpenAI

import schemas
from harness import KEY, MODEL, URL, say

SEED = 20261124
GENERATED = 125
MAX_TOKENS = 160
client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
anthropic = Anthropic(base_url=URL.removesuffix("/v1"), api_key=KEY, max_retries=0, timeout=120)
checker = Draft202012Validator.FORMAT_CHECKER


@checker.checks("duration")
def is_duration(value):
    """ISO 8601 as RFC 3339 writes it."""
    date, time_ = r"(\d+Y)?(\d+M)?(\d+D)?", r"(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?"
    return re.fullmatch(rf"P(?=.)({date}{time_}|\d+W)", value) is not None


unknown = set(schemas.FORMATS) - set(checker.checkers)
assert not unknown, f"the validator cannot check {unknown}"


def prompt(name):
    return f"Write a short example of '{name}' as compact JSON."


def chat(name, schema, i, most):
    """Text and whether it was cut; greedy and sampled in turn."""
    choice = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt(name)}],
        max_tokens=most,
        temperature=0.8 * (i % 2),
        seed=SEED + i,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    ).choices[0]
    return choice.message.content or "", choice.finish_reason == "length"


def responses(name, schema, i, most):
    response = client.responses.create(
        model=MODEL,
        input=prompt(name),
        max_output_tokens=most,
        temperature=0.8 * (i % 2),
        extra_body={"seed": SEED + i},
        store=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": schema}},
    )
    return response.output_text, response.status == "incomplete"


def messages(name, schema, i, most):
    message = anthropic.messages.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt(name)}],
        max_tokens=most,
        extra_body={"temperature": 0, "output_config": {"format": {"type": "json_schema", "schema": schema}}},
    )
    return "".join(block.text for block in message.content), message.stop_reason == "max_tokens"


def tool(name, schema, i, most):
    choice = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt(name)}],
        max_tokens=most + 40,
        temperature=0.8 * (i % 2),
        seed=SEED + i,
        tools=[{"type": "function", "function": {"name": "record", "parameters": schema}}],
        tool_choice={"type": "function", "function": {"name": "record"}},
    ).choices[0]
    calls = choice.message.tool_calls or []
    return (calls[0].function.arguments if calls else ""), choice.finish_reason == "length"


def surface_of(i, schema):
    if i % 10 == 9 and schema.get("type") == "object":
        return tool
    return {6: responses, 7: responses, 8: messages}.get(i % 10, chat)


def is_prefix(text):
    """Whether some JSON text begins so."""
    if not text.strip():
        return True
    try:
        jiter.from_json(text.encode(), partial_mode="trailing-strings")
        return True
    except ValueError as error:
        # A number, word or escape that is cut in its middle.
        return "EOF" in str(error)


def check(entry):
    i, (name, schema) = entry
    surface = surface_of(i, schema)
    where = f"{i} {name} ({surface.__name__})"
    try:
        text, is_cut = surface(name, schema, i, MAX_TOKENS)
        if is_cut:
            print(f"cut {where}: {text!r}")
            return "cut", None if is_prefix(text) else f"{where}: not the beginning of JSON: {text!r}"
        error = next(Draft202012Validator(schema, format_checker=checker).iter_errors(json.loads(text)), None)
        if error:
            return "whole", f"{where}: {error.message} in {text!r}"
        if i % 12 == 0 and surface is chat:
            begun, was_cut = chat(name, schema, i, 4)
            if not text.startswith(begun) or not (was_cut or begun == text):
                return "whole", f"{where}: {begun!r} does not begin {text!r}"
        return "whole", None
    except Exception as error:  # noqa: BLE001 - the other schemas shall be tried too
        return "failed", f"{where}: {type(error).__name__}: {error}"


corpus = schemas.corpus(SEED, GENERATED)
for name, schema in corpus:
    Draft202012Validator.check_schema(schema)
began = time.monotonic()
with ThreadPoolExecutor(32) as pool:
    results = list(pool.map(check, enumerate(corpus)))
complaints = [complaint for _, complaint in results if complaint]
for complaint in complaints:
    print("not ok", complaint)
kinds = [kind for kind, _ in results]
say("schemas", {
    "seed": SEED, "schemas": len(corpus), "whole": kinds.count("whole"), "cut": kinds.count("cut"),
    "wrong": len(complaints), "seconds": round(time.monotonic() - began, 1),
})
sys.exit(1 if complaints else 0)
