"""Validates a bill of materials by the schema that CycloneDX publishes.

    bom_schema.py JSON          bom (an object)

Prints {"errors": [...]}: where and what, none if it is valid.
"""

import importlib.util
import json
import pathlib
import sys

import jsonschema
import referencing

SCHEMAS = pathlib.Path(importlib.util.find_spec("cyclonedx").origin).parent / "schema" / "_res"


def schema(name):
    return json.loads((SCHEMAS / f"{name}.SNAPSHOT.schema.json").read_text())


def main():
    given = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
    whole = schema("bom-1.6")
    base = whole["$id"].rsplit("/", 1)[0]
    # The schema names the other two as files beside it.
    others = [(f"{base}/{name}{suffix}", referencing.Resource.from_contents(schema(name)))
              for name in ("spdx", "jsf-0.82") for suffix in (".schema.json", ".SNAPSHOT.schema.json")]
    validator = jsonschema.Draft7Validator(whole, registry=referencing.Registry().with_resources(others))
    errors = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in validator.iter_errors(given["bom"])]
    print(json.dumps({"errors": errors}))


main()
