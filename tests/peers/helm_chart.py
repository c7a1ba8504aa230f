"""Renders a Helm chart and validates what comes out by Kubernetes' published schemas. Nothing is asked of a cluster.

Standard input is {"chart": FOLDER, "values": {…}}; the answer is a list of objects, or {"refused": what helm said}.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

HELM = pathlib.Path(sys.executable).parent / "helm"
KUBERNETES = "1.32"


def main():
    given = json.load(sys.stdin)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
        json.dump(given["values"], values)
        values.flush()
        lint = subprocess.run([HELM, "lint", "--strict", given["chart"], "--values", values.name], capture_output=True, text=True)
        done = subprocess.run([HELM, "template", "test", given["chart"], "--values", values.name], capture_output=True, text=True)
    if done.returncode != 0:
        return {"refused": done.stderr}
    if lint.returncode != 0:
        sys.exit(lint.stdout + lint.stderr)
    objects = [found for found in yaml.safe_load_all(done.stdout) if found]
    for found in objects:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    return objects


json.dump(main(), sys.stdout)
