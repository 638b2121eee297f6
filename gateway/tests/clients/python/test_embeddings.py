"""The official Python client: embeddings as it asks for them by itself (base64), as numbers, and over Azure's paths."""

import os

import openai
from openai import AzureOpenAI, OpenAI

URL, KEY = os.environ["SPILLWAY_URL"], os.environ["SPILLWAY_KEY"]
MODEL, EMBEDDER = os.environ["SPILLWAY_MODEL"], os.environ["SPILLWAY_EMBEDDER"]

client = OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=120)
texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]

by_default = client.embeddings.create(model=EMBEDDER, input=texts)
as_numbers = client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
assert len(by_default.data) == 3 and by_default.usage.total_tokens == 25, by_default.usage
for a, b in zip(by_default.data, as_numbers.data):
    assert a.index == b.index and len(a.embedding) == 384
    assert max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-7
try:
    client.embeddings.create(model=EMBEDDER, input="word " * 300)
    raise AssertionError("a text that is too long was taken")
except openai.BadRequestError as error:
    assert error.code == "context_length_exceeded" and "256" in error.message, error

azure = AzureOpenAI(azure_endpoint=URL, api_key=KEY, api_version="2024-10-21", max_retries=0, timeout=120)
reply = azure.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=3)
assert reply.choices[0].finish_reason in ("stop", "length"), reply
assert len(azure.embeddings.create(model=EMBEDDER, input="a").data[0].embedding) == 384
named = AzureOpenAI(
    azure_endpoint=URL, azure_deployment=MODEL, api_key=KEY, api_version="2024-10-21", max_retries=0, timeout=120
)
stream = named.chat.completions.create(
    model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], max_tokens=3, stream=True
)
assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] in ("stop", "length")
print("ok")
