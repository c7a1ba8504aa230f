#!/usr/bin/env python3
"""What SSSD makes of certificates: `sssctl cert-eval-rule`, which maps as SSSD's PAM responder does, in a mount namespace of its own.

Reads {"certificates": ["hex", ...], "rules": ["LDAPU1:(n={subject_dn!ad_x500})", ...]} from standard input and prints, for each
certificate, the filter of each rule, with LDAP's escapes undone; null where there is none. Nothing is started and nothing is kept:
sssctl wants a configuration with a domain in it and writes it into a database, so both folders are a memory's.

    unshare --mount -- python3 certmap.py -
"""

import base64
import json
import pathlib
import re
import subprocess
import sys

CONFIGURATION = """\
[sssd]
domains = tables
[domain/tables]
id_provider = proxy
proxy_lib_name = files
"""


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)


def prepare():
    for folder in ("/etc/sssd", "/var/lib/sss"):
        done = run("mount", "-t", "tmpfs", "-o", "mode=0700", "certmap", folder)
        if done.returncode != 0:
            sys.exit(f"certmap: {folder}: {done.stderr.decode()}")
    pathlib.Path("/var/lib/sss/db").mkdir(mode=0o700)
    configuration = pathlib.Path("/etc/sssd/sssd.conf")
    configuration.write_text(CONFIGURATION)
    configuration.chmod(0o600)


def evaluate(certificate, rule):
    done = run("sssctl", "cert-eval-rule", certificate, "--match", "<SUBJECT>.*", "--map", rule)
    if b"No domain" in done.stderr or b"Error while executing" in done.stderr:
        sys.exit(f"certmap: sssctl: {done.stderr.decode(errors='replace')}")
    found = re.search(rb"Mapping filter:\n\n    \((\w+)=(.*)\)\n\n", done.stdout, re.DOTALL)
    if not found:
        return None
    escaped = re.sub(rb"\\([0-9a-fA-F]{2})", lambda code: bytes.fromhex(code.group(1).decode()), found.group(2))
    return escaped.decode(errors="replace")


def main():
    if sys.argv[1:] != ["-"]:
        sys.exit(__doc__)
    given = json.load(sys.stdin)
    prepare()
    certificates = [base64.b64encode(bytes.fromhex(certificate)).decode() for certificate in given["certificates"]]
    json.dump([[evaluate(certificate, rule) for rule in given["rules"]] for certificate in certificates], sys.stdout)


main()
