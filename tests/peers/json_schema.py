"""Validates documents of TOML by a JSON Schema, with a validator that this project did not write.

Standard input is {"schema": SCHEMA, "documents": [TOML, …]}; the answer has for each document the list of what is wrong with it.
"""

import json
import sys
import tomllib

import jsonschema

given = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(given["schema"])
validator = jsonschema.Draft202012Validator(given["schema"])
wrong = [[error.message for error in validator.iter_errors(tomllib.loads(text))] for text in given["documents"]]
json.dump(wrong, sys.stdout)
