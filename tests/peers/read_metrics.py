#!/usr/bin/env python3
"""Reads metrics with the parsers of Prometheus' Python client. One JSON object in (text, and format: openmetrics or prometheus), one out:
families, each with name, type, unit, documentation, and samples with name, labels, value and exemplar (its labels and value)."""
import json
import sys

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as prometheus

given = json.load(sys.stdin)
parser = {"openmetrics": openmetrics, "prometheus": prometheus}[given["format"]]
families = [
    {
        "name": family.name,
        "type": family.type,
        "unit": family.unit,
        "documentation": family.documentation,
        "samples": [
            {
                "name": s.name,
                "labels": s.labels,
                "value": s.value,
                "exemplar": s.exemplar and {"labels": s.exemplar.labels, "value": s.exemplar.value},
            }
            for s in family.samples
        ],
    }
    for family in parser.text_string_to_metric_families(given["text"])
]
print(json.dumps({"families": families}))
