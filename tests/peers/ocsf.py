"""Validates events by OCSF's published schema of the class that they name.

Standard input is {"version": VERSION, "class": CLASS, "events": [EVENT, …]}; the answer has for each event the list of what is
wrong with it.
"""

import json
import sys

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

given = json.load(sys.stdin)
schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(given["version"])).get_class_schema(given["class"])
validator = jsonschema.Draft202012Validator(schema)
json.dump([[error.message for error in validator.iter_errors(event)] for event in given["events"]], sys.stdout)
