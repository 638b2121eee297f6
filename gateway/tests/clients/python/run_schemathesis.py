"""Tries the server against its own OpenAPI document: no failure of the server, no status, content type or body that the
document does not have.

Bounded by examples for each operation, and reproducible by the seed that it is run with.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

BASE = os.environ["SPILLWAY_URL"].removesuffix("/v1")
KEY = os.environ["SPILLWAY_KEY"]
EXAMPLES, SEED = "12", "20261124"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance,ignored_auth"

with urllib.request.urlopen(f"{BASE}/openapi.json") as reply:
    document = json.load(reply)
if "ModelId" in document["components"]["schemas"]:
    request = urllib.request.Request(f"{BASE}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as reply:
        models = [model["id"] for model in json.load(reply)["data"]]
    # With names made up by chance every request would end at its model.
    document["components"]["schemas"]["ModelId"]["enum"] = models
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "openapi.json")
    path.write_text(json.dumps(document))
    command = [
        str(Path(sys.executable).with_name("st")), "run", str(path), "--url", BASE, "--header", f"Authorization: Bearer {KEY}",
        "--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", SEED, "--workers", "1",
        "--continue-on-failure", "--no-shrink", "--generation-database", "none", "--suppress-health-check", "all",
        "--warnings", "off", "--request-timeout", "120", "--no-color",
    ]
    print("seed", SEED, flush=True)
    sys.exit(subprocess.run(command, cwd=folder).returncode)
