#!/usr/bin/env python3
"""Proves that no dependency arrow between the crates points where ARCHITECTURE.md says none may.

The allowed arrows are the table below, which is the one of ARCHITECTURE.md. Development dependencies do not count.
"""
import json
import subprocess
import sys

CORE = {"dtyp", "dcerpc", "pac"}
ALLOWED = {
    "dtyp": set(),
    "dcerpc": {"dtyp"},
    "pac": {"dtyp", "dcerpc"},
    "dcerpc-tokio": {"dtyp", "dcerpc"},
    "netlogon-transport": {"dtyp", "dcerpc"},
    "account-store": {"dtyp"},
    "rcmp-service": {"dtyp", "account-store", "pac"},
    "sidecar": {"dtyp", "account-store", "rcmp-service"},
    "pem-file": {"account-store"},
    "sidecar-tokio": {"dtyp", "dcerpc", "dcerpc-tokio", "rcmp-service", "sidecar", "pem-file"},
    "rcmpd": {
        "dtyp", "dcerpc", "pac", "dcerpc-tokio", "netlogon-transport", "account-store", "rcmp-service", "sidecar",
        "pem-file", "sidecar-tokio",
    },
}
# Sockets, tasks, clocks and randomness stay out of the core; a runtime stays out of the services.
FORBIDDEN = {
    **{crate: {"tokio", "getrandom", "rand", "tracing", "tower"} for crate in CORE},
    "netlogon-transport": {"tokio"},
    "rcmp-service": {"tokio", "getrandom"},
    "account-store": {"tokio"},
    "sidecar": {"tokio"},
    "pem-file": {"tokio", "getrandom"},
}

metadata = json.loads(
    subprocess.check_output(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"])
)
wrong = []
seen = set()
for package in metadata["packages"]:
    name = package["name"]
    if name not in ALLOWED:
        continue
    seen.add(name)
    dependencies = {d["name"] for d in package["dependencies"] if d["kind"] is None}
    for target in sorted(dependencies & (ALLOWED.keys() - ALLOWED[name])):
        wrong.append(f"{name} -> {target}")
    for target in sorted(dependencies & FORBIDDEN.get(name, set())):
        wrong.append(f"{name} -> {target}")
for name in sorted(ALLOWED.keys() - seen):
    wrong.append(f"{name} is not in the workspace")
if wrong:
    sys.exit("arrows that may not be:\n  " + "\n  ".join(wrong))
print(f"arrows: {len(seen)} crates, none points back")
