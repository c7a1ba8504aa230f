"""Prints a trace as a tree, and fails unless it is one tree with spans of all these services, below the
caller's span.

    tree.py FILE TRACEPARENT SERVICE...

The trace is that of the request to the sidecar. TRACEPARENT is what the caller sent.
"""

import json
import sys
import time

SHOWN = ("dialect", "outcome", "interface", "opnum", "peer.domain", "rcmp.reason", "http.response.status_code")
SECONDS = 30
_, TRACE, PARENT, _ = sys.argv[2].split("-")


def read():
    with open(sys.argv[1]) as lines:
        spans = [json.loads(line) for line in lines]
    traces = [span["trace"] for span in spans if "dialect" in span["attributes"]]
    return [span for span in spans if span["trace"] in traces[:1]]


def show(span, before, is_last):
    facts = " ".join(f"{key}={span['attributes'][key]}" for key in SHOWN if key in span["attributes"])
    milliseconds = (span["end"] - span["start"]) / 1e6
    print(f"{before}{'└─' if is_last else '├─'} {span['service']}: {span['name']}  {milliseconds:.1f} ms  {facts}".rstrip())
    below = sorted((other for other in spans if other["parent"] == span["span"]), key=lambda it: it["start"])
    for at, other in enumerate(below, 1):
        show(other, before + ("   " if is_last else "│  "), at == len(below))


deadline = time.monotonic() + SECONDS
while True:
    spans = read()
    known = {span["span"] for span in spans}
    roots = [span for span in spans if span["parent"] not in known]
    missing = set(sys.argv[3:]) - {span["service"] for span in spans}
    if (not missing and len(roots) == 1) or time.monotonic() > deadline:
        break
    time.sleep(0.1)
print(f"trace {spans[0]['trace'] if spans else ''}: {len(spans)} spans below {PARENT} of the caller")
for root in roots:
    show(root, "", True)
if missing:
    sys.exit(f"no span of {', '.join(sorted(missing))}")
if len(roots) != 1:
    sys.exit(f"{len(roots)} trees")
if (roots[0]["trace"], roots[0]["parent"]) != (TRACE, PARENT):
    sys.exit(f"the trace is not the caller's: {sys.argv[2]}")
