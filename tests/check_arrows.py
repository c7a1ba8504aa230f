#!/usr/bin/env python3
"""Proves that no dependency arrow between the crates points where ARCHITECTURE.md says none may.

The two tables under "Arrows" in ARCHITECTURE.md are read: which crates each crate may depend on, and which packages no crate of a tier may
reach. Development and build dependencies do not count.

Arrows between our crates are what the manifests declare. What a crate reaches is what cargo builds if it builds that crate alone with all
its features: `cargo tree` resolves them so. In a build of the whole workspace the features of all crates are united (tonic makes `tower`
depend on tokio, for instance), so its graph does not show what a crate needs.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tables():
    """Rows of the tables under "## Arrows" by the name in their first column, with a set of names for each other column."""
    section = (ROOT / "ARCHITECTURE.md").read_text().split("\n## Arrows\n", 1)[1].split("\n## ", 1)[0]
    found, header = {}, None
    for line in section.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if header is None:
            header = cells
            found[header[0]] = {}
        elif set(line) - set("|-: "):
            row = dict(zip(header, cells, strict=True))
            name = row.pop(header[0]).strip("`")
            found[header[0]][name] = {title: set(re.findall(r"[\w-]+", cell)) for title, cell in row.items()}
    return found["crate"], found["tier"]


def cargo(*arguments):
    return subprocess.check_output(["cargo", arguments[0], "--locked", *arguments[1:]], cwd=ROOT, text=True)


def reached(crate):
    """What a crate reaches, each package with the way to it."""
    way, found = [], {}
    for line in cargo(
        "tree", "--package", crate, "--edges", "normal", "--all-features", "--prefix", "depth", "--format", " {p}"
    ).splitlines():
        depth, name, *_ = line.split()
        way[int(depth) :] = [name]
        found.setdefault(name, " -> ".join(way))
    return found


def main():
    crates, tiers = tables()
    packages = json.loads(cargo("metadata", "--no-deps", "--format-version", "1"))["packages"]
    ours = {package["name"]: package for package in packages if "/crates/" in package["manifest_path"]}
    wrong = [f"{name} is not in the table of ARCHITECTURE.md" for name in sorted(ours.keys() - crates.keys())]
    wrong += [f"{name} is in the table of ARCHITECTURE.md, and in no folder" for name in sorted(crates.keys() - ours.keys())]
    for name in sorted(ours.keys() & crates.keys()):
        row = crates[name]
        declared = {d["name"] for d in ours[name]["dependencies"] if d["kind"] is None}
        allowed = ours.keys() if row["may depend on"] == {"all"} else row["may depend on"]
        wrong += [f"{name} -> {other}" for other in sorted(declared & (ours.keys() - allowed))]
        wrong += [f"{name} -> {other}" for other in sorted(declared & row["declares none of"])]
        if banned := set().union(*(tiers[tier]["reaches none of"] for tier in row["tier"])):
            found = reached(name)
            wrong += [found[other] for other in sorted(found.keys() & banned)]
    if wrong:
        sys.exit("arrows that may not be:\n  " + "\n  ".join(wrong))
    print(f"arrows: {len(ours)} crates, none points back")


if __name__ == "__main__":
    main()
