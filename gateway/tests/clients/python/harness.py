"""What the client scripts share: the settings that the caller gives, and the lines that it reads.

A script prints `ok NAME` for each check, `usage {...}` for each usage that a client was given and `left {...}` for each
stream that it left; the caller compares these lines with the bill.
"""

import json
import os
import sys
import threading

URL = os.environ["SPILLWAY_URL"]
MODEL = os.environ["SPILLWAY_MODEL"]
KEY = os.environ["SPILLWAY_KEY"]
LIMITED = os.environ["SPILLWAY_KEY_LIMITED"]
POOR = os.environ["SPILLWAY_KEY_POOR"]
printing = threading.Lock()


def say(label, value):
    with printing:
        print(label, json.dumps(value), flush=True)


def run(checks):
    """Runs checks (name, function), all of them, and exits."""
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"ok {name}", flush=True)
        except Exception as error:  # noqa: BLE001 - the next checks shall run too
            failed += 1
            print(f"not ok {name}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)
