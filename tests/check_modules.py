#!/usr/bin/env python3
"""Proves that no modules of a crate use each other in a circle.

One module uses another if it names an item that is defined there. A re-export (`pub use`) is followed to the definition, so a `lib.rs`
that only collects its modules uses none of them. A module may use what the modules around it define (`super::`): they share one folder.
Test code does not count. The names of methods are not looked up.
"""
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

VISIBILITY = r"(?:pub(?:\([a-z: ]+\))? )?"
DEFINED = re.compile(
    rf"^{VISIBILITY}(?:default |const |async |unsafe |extern \"C\" )*(?:fn|struct|enum|union|trait|type|const|static) (\w+)"
    r"|^macro_rules! (\w+)",
    re.M,
)
MODULE = re.compile(rf"^(#\[cfg\(.*test.*\)\]\n)?(?:#\[.*\]\n)*{VISIBILITY}mod (\w+);", re.M)
INLINE_TESTS = re.compile(r"^#\[cfg\(.*test.*\)\]\n(?:#\[.*\]\n)*mod \w+ \{.*?^\}", re.M | re.S)
USE = re.compile(r"^([ \t]*)(pub(?:\([a-z: ]+\))? )?use ([^;]+);", re.M)
PATH = re.compile(r"\b[a-z_]\w*(?:::\w+)+")
STRING = re.compile(r'r#".*?"#|"(?:\\.|[^"\\])*"', re.S)


class Module:
    """A module: its items, the names that it imports, and the paths in its code."""

    def __init__(self, path, file):
        self.path = path
        text = re.sub(r"//.*", "", file.read_text())
        text = STRING.sub('""', INLINE_TESTS.sub("", text))
        self.items = {name for names in DEFINED.findall(text) for name in names if name}
        self.children = [name for is_test, name in MODULE.findall(text) if not is_test]
        # Names in this module, with the path that each stands for; "*" has several.
        self.imports = defaultdict(list)
        self.exports = set()
        for _, visibility, tree in USE.findall(text):
            for name, full in branches(re.sub(r"\s+", " ", tree)):
                self.imports[name].append(full)
                if visibility:
                    self.exports.add(name)
        self.paths = {tuple(found.split("::")) for found in PATH.findall(USE.sub("", text))}


def branches(tree):
    """The names that a `use` brings, each with its path."""
    head, brace, rest = tree.partition("{")
    if not brace:
        path, _, alias = tree.strip().partition(" as ")
        parts = tuple(path.split("::"))
        if parts[-1] == "self":
            parts = parts[:-1]
        yield (alias or parts[-1]), parts
        return
    depth, start, body = 0, 0, rest.rsplit("}", 1)[0] + ","
    for at, letter in enumerate(body):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            if branch := body[start:at].strip():
                yield from branches(head.strip() + branch)
            start = at + 1


def load(folder, path, file, modules):
    module = modules[path] = Module(path, file)
    for child in module.children:
        for candidate in (folder / f"{child}.rs", folder / child / "mod.rs"):
            if candidate.exists():
                load(folder / child, (*path, child), candidate, modules)


def absolute(module, parts):
    """A path from the root of the crate, or None if another crate is named."""
    at = module.path
    if parts[0] == "crate":
        return parts[1:]
    if parts[0] in ("self", "super"):
        while parts and parts[0] in ("self", "super"):
            at, parts = (at[:-1] if parts[0] == "super" else at), parts[1:]
        return (*at, *parts)
    return (*at, *parts) if parts[0] in module.children else None


def definition(modules, parts, seen=()):
    """The module that defines what a path from the root leads to."""
    for cut in range(len(parts), -1, -1):
        if module := modules.get(parts[:cut]):
            break
    if cut == len(parts):
        return None  # The module itself: paths that begin with its name are looked up one by one.
    name = parts[cut]
    if name in module.items or (parts, module.path) in seen:
        return module.path
    for key in (name, "*"):
        for target in module.imports.get(key, ()) if key in module.exports else ():
            target = target[:-1] + parts[cut:] if key == "*" else target + parts[cut + 1 :]
            target = absolute(module, target)
            if target is not None and (found := definition(modules, target, (*seen, (parts, module.path)))):
                return found
    return None


def arrows(modules):
    for module in modules.values():
        named = [path for name, paths in module.imports.items() if name not in module.exports for path in paths]
        for parts in module.paths:
            # The first part may be imported: `use crate::trust;` and then `trust::load()`.
            for target in module.imports.get(parts[0], ()):
                named.append(target + parts[1:])
            named.append(parts)
        for parts in named:
            target = absolute(module, parts)
            found = definition(modules, target) if target is not None else None
            if found is not None and found != module.path[: len(found)]:
                yield module.path, found, "::".join(parts)


def circles(edges):
    """Sets of modules each of which leads to each other one."""

    def reached(start):
        done, left = set(), [start]
        while left:
            for target in edges[left.pop()]:
                if target not in done:
                    done.add(target)
                    left.append(target)
        return done

    leads = {module: reached(module) for module in list(edges)}
    return {frozenset(m for m in leads[start] if start in leads.get(m, ())) for start in leads if start in leads[start]}


def main():
    command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
    wrong, count = [], 0
    for package in json.loads(subprocess.check_output(command))["packages"]:
        library = next((t for t in package["targets"] if "lib" in t["kind"]), None)
        if library is None or "/crates/" not in library["src_path"]:
            continue
        source, modules, edges, names = Path(library["src_path"]), {}, defaultdict(set), {}
        load(source.parent, (), source, modules)
        count += len(modules)
        for user, used, name in arrows(modules):
            edges[user].add(used)
            names.setdefault((user, used), name)
        for circle in circles(edges):
            wrong.append(f"{package['name']}: a circle of {len(circle)} modules")
            for user, used in sorted(names):
                if user in circle and used in circle:
                    show = ["::".join(path) or "lib.rs" for path in (user, used)]
                    wrong.append(f"    {show[0]} uses {show[1]} ({names[user, used]})")
    if wrong:
        sys.exit("modules that use each other:\n  " + "\n  ".join(wrong))
    print(f"modules: {count}, no circle")


if __name__ == "__main__":
    main()
