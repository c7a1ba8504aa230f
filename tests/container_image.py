#!/usr/bin/env python3
"""Reads an OCI layout with programs that this project did not write, and runs what is in it.

usage: container_image.py LAYOUT

skopeo reads the manifest and checks each digest as it copies; umoci unpacks the layers as an engine does. The program is run in
the unpacked tree, as the user of the image, without a loader or a library beside it.
"""

import json
import pathlib
import subprocess
import sys
import tempfile


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nimage: {' '.join(map(str, command))} failed")
    return done.stdout


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    layout = pathlib.Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        config = json.loads(run("skopeo", "inspect", "--config", f"oci:{layout}"))
        user, entry = config["config"]["User"], config["config"]["Entrypoint"]
        if user.split(":")[0] in ("", "0", "root"):
            sys.exit(f"image: it runs as {user!r}")
        tag = json.loads((layout / "index.json").read_text())["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        run("skopeo", "--insecure-policy", "copy", f"oci:{layout}", f"oci:{folder}/copy:{tag}")
        run("umoci", "unpack", "--image", f"{folder}/copy:{tag}", f"{folder}/bundle")
        root = f"{folder}/bundle/rootfs"
        inside = ("chroot", f"--userspec={user}", root, *entry)
        print("image:", run(*inside, "--version").strip())
        run(*inside, "quickstart", "/var/lib/rcmpd/demo")
        run(*inside, "check-config", "/var/lib/rcmpd/demo/rcmpd.toml")
        said = run(*inside, "explain", "/var/lib/rcmpd/demo/certs/alice.pem", "-c", "/var/lib/rcmpd/demo/rcmpd.toml")
        if "-> alice" not in said:
            sys.exit(f"image: alice is not known:\n{said}")
    print("image: read, unpacked and run")


main()
