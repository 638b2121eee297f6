"""The official Python client begins a batch, or waits for its end and tells what is in its files.

The server is killed in between, so each is a run of its own: `batch_job.py begin COUNT SEED` prints `batch ID`, and
`batch_job.py end ID` prints `end {...}`.
"""

import io
import json
import random
import sys
import time

from harness import KEY, MODEL, URL, say
from openai import OpenAI

client = OpenAI(base_url=URL, api_key=KEY, timeout=120)


def begin(count, seed):
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        body = {"model": MODEL, "max_tokens": rng.randint(1, 8), "messages": [{"role": "user", "content": f"Say {i}."}]}
        # Some lines are wrong, so that both files are written.
        body |= {"max_tokens": 0} if i % 50 == 49 else {"ignore_eos": True}
        row = {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body}
        rows.append(json.dumps(row))
    data = io.BytesIO("\n".join(rows).encode())
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    say("batch", batch.id)


def end(id):
    batch = client.batches.retrieve(id)
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.1)
        batch = client.batches.retrieve(id)

    def ids(file):
        return [json.loads(line)["custom_id"] for line in client.files.content(file).text.splitlines()]

    files = {"output": ids(batch.output_file_id), "error": ids(batch.error_file_id)}
    say("end", {"status": batch.status, "counts": batch.request_counts.model_dump(), **files})


if sys.argv[1] == "begin":
    begin(int(sys.argv[2]), int(sys.argv[3]))
else:
    end(sys.argv[2])
