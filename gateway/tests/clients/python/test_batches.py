"""The official Python client: a batch from its file to its answers."""

import io
import json
import time

import openai
from harness import KEY, LIMITED, MODEL, URL, run
from openai import OpenAI

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)


def lines(count, **extra):
    for i in range(count):
        messages = [{"role": "user", "content": f"Count to {i}."}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 4, **extra}
        yield {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(rows):
    text = "\n".join(json.dumps(row) for row in rows)
    return client.files.create(file=("in.jsonl", io.BytesIO(text.encode())), purpose="batch").id


def create(rows, **extra):
    return client.batches.create(
        input_file_id=upload(rows), endpoint="/v1/chat/completions", completion_window="24h", **extra
    )


def ended(batch):
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def read(id):
    return [json.loads(line) for line in client.files.content(id).text.splitlines()]


def from_file_to_answers():
    begun = create(lines(20), metadata={"job": "nightly"})
    assert begun.id.startswith("batch_") and begun.object == "batch" and begun.status == "validating"
    assert begun.expires_at == begun.created_at + 86_400 and begun.metadata == {"job": "nightly"}
    done = ended(begun)
    assert done.status == "completed" and done.error_file_id is None and done.errors is None, done
    assert done.request_counts.model_dump() == {"total": 20, "completed": 20, "failed": 0}
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    answers = read(done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"line-{i}" for i in range(20)]
    for answer in answers:
        assert answer["error"] is None and answer["response"]["status_code"] == 200
        assert answer["response"]["body"]["service_tier"] == "batch"
    usages = [answer["response"]["body"]["usage"] for answer in answers]
    assert done.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert done.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    output = client.files.retrieve(done.output_file_id)
    assert output.purpose == "batch_output" and output.filename == f"{done.id}_output.jsonl"


def faulty_input():
    rows = list(lines(3))
    rows[1]["custom_id"] = "line-0"
    failed = ended(create(rows))
    assert failed.status == "failed" and failed.failed_at
    assert [(e.line, e.code) for e in failed.errors.data] == [(2, "duplicate_custom_id")], failed.errors


def cancelled():
    batch = create(lines(500, max_tokens=200, ignore_eos=True))
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = ended(batch)
    assert done.status == "cancelled" and done.cancelling_at and done.cancelled_at
    assert done.request_counts.total in (0, 500), done.request_counts
    try:
        client.batches.cancel(ended(create(lines(1))).id)
        raise AssertionError("a completed batch was cancelled")
    except openai.ConflictError as error:
        assert error.code == "batch_not_cancellable"


def pages():
    ids = [batch.id for batch in client.batches.list(limit=2)]
    assert len(ids) >= 3 and len(set(ids)) == len(ids)
    assert not list(OpenAI(base_url=URL, api_key=LIMITED, max_retries=0).batches.list())


run([(check.__name__, check) for check in (from_file_to_answers, faulty_input, cancelled, pages)])
