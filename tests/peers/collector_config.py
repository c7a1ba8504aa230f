"""Reads a configuration of the OpenTelemetry Collector, and does to attributes and texts what it says about names.

Standard input is {"config": FILE, "attributes": [[KEY, VALUE], …], "texts": [TEXT, …], "spans": [{KEY: NUMBER}, …]}; the answer
has the values that are left, the texts as they are then, and for each span whether a policy by attributes keeps it.
"""

import json
import re
import sys

import yaml

given = json.load(sys.stdin)
with open(given["config"]) as file:
    config = yaml.safe_load(file)

# What the collector refuses at its start: a component that a pipeline names and that is not there.
for name, pipeline in config["service"]["pipelines"].items():
    for kind in ("receivers", "processors", "exporters"):
        for component in pipeline[kind]:
            if component not in config[kind]:
                sys.exit(f"pipeline {name}: no {component} among {kind}")
    if pipeline["processors"][0] != "memory_limiter" or pipeline["processors"][-1] != "batch":
        sys.exit(f"pipeline {name}: memory_limiter is first, and batch is last")
for name in ("traces", "logs"):
    if not {"attributes/redact", "redaction"} <= set(config["service"]["pipelines"][name]["processors"]):
        sys.exit(f"pipeline {name}: names are not taken out")

pipelines = {name: config["service"]["pipelines"][name] for name in ("logs", "logs/audit")}
rules = {name: [config["processors"][it]["logs"]["log_record"] for it in pipeline["processors"] if it.startswith("filter/")]
         for name, pipeline in pipelines.items()}
# Audit lines are whole in their pipeline, and in no other one.
if rules != {"logs": [['instrumentation_scope.name == "rcmpd.audit"']], "logs/audit": [['instrumentation_scope.name != "rcmpd.audit"']]}:
    sys.exit(f"audit lines are not kept apart: {rules}")
if {"attributes/redact", "redaction"} & set(pipelines["logs/audit"]["processors"]):
    sys.exit("names are taken out of audit lines")

actions = {action["key"]: action["action"] for action in config["processors"]["attributes/redact"]["actions"]}
blocked = [re.compile(pattern) for pattern in config["processors"]["redaction"]["blocked_values"]]


def masked(text):
    for pattern in blocked:
        text = pattern.sub("****", text)
    return text


left = [[key, masked(value)] for key, value in given["attributes"] if key not in actions]
policies = config["processors"]["tail_sampling"]["policies"]
numbers = [policy["numeric_attribute"] for policy in policies if policy["type"] == "numeric_attribute"]


def is_kept(span):
    return any(number["min_value"] <= span.get(number["key"], -1) <= number["max_value"] for number in numbers)


kept = [is_kept(span) for span in given["spans"]]
json.dump({"attributes": left, "texts": [masked(text) for text in given["texts"]], "kept": kept}, sys.stdout)
