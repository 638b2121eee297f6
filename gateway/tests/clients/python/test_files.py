"""The official Python client: files uploaded, listed, read and deleted."""

import io

import openai
from harness import KEY, LIMITED, URL, run
from openai import OpenAI

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
CONTENT = b'{"custom_id": "a"}\n' * 50_000


def upload_and_read():
    made = client.files.create(file=("lines.jsonl", io.BytesIO(CONTENT)), purpose="batch")
    assert made.id.startswith("file-") and made.object == "file" and made.filename == "lines.jsonl"
    assert made.bytes == len(CONTENT) and made.purpose == "batch" and made.status == "processed"
    assert made.expires_at == made.created_at + 30 * 86_400
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == CONTENT
    assert client.files.delete(made.id).deleted
    try:
        client.files.retrieve(made.id)
        raise AssertionError("a deleted file was found")
    except openai.NotFoundError as error:
        assert error.code == "file_not_found"


def expiry():
    made = client.files.create(
        file=("x.txt", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    assert made.expires_at == made.created_at + 3_600
    try:
        client.files.create(file=("x", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 59})
        raise AssertionError("59 s were taken")
    except openai.BadRequestError as error:
        assert error.param == "expires_after[seconds]" and error.code == "integer_below_min_value"
    client.files.delete(made.id)


def pages():
    made = [client.files.create(file=(f"{i}.txt", b"x"), purpose="user_data").id for i in range(5)]
    first = client.files.list(limit=2)
    assert [file.id for file in first.data] == made[:-3:-1] and first.has_more
    assert [file.id for file in client.files.list(limit=2)] == made[::-1], "the SDK follows the pages"
    assert [file.id for file in client.files.list(limit=2, order="asc", purpose="user_data")] == made
    assert not client.files.list(purpose="batch").data
    other = OpenAI(base_url=URL, api_key=LIMITED, max_retries=0)
    assert not other.files.list().data, "another project's files"
    for id in made:
        client.files.delete(id)


run([("upload_and_read", upload_and_read), ("expiry", expiry), ("pages", pages)])
