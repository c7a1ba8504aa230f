#!/usr/bin/env python3
"""Checks the Markdown files of the repository: links and their anchors, lines of prose, and words.

- A relative link leads to a file, and its anchor to a heading in it. Addresses on the web are not asked for.
- A line of prose has at most 110 characters. Tables and blocks of code may have more.
- Words that name no part ("whoever") are not used.
- Log messages that pages quote are in the code.
"""
import re
import subprocess
import sys
from pathlib import Path

LINE_LEN_MAX = 110
NO_PART = re.compile(r"\b(whoever|whomever|whom|nobody|somebody|anybody)\b", re.I)
FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
CODE = re.compile(r"`[^`]*`")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]*(?:\([^()]*\)[^()\s]*)*)\)")
# A log message begins with a capital letter and has three words or more.
MESSAGE = re.compile(r"`([A-Z][a-z]+(?:\s+[\w'-]+){2,})`")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.M)


def blank(match):
    """What is taken out leaves its lines, so that numbers of lines stay."""
    return "\n" * match.group(0).count("\n")


def anchors(text):
    """The anchors of a page, as GitHub and GitLab make them of headings."""
    found, seen = set(), {}
    for heading in HEADING.findall(FENCE.sub(blank, text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        words = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = seen[words] = seen.get(words, -1) + 1
        found.add(f"{words}-{count}" if count else words)
    return found


def main():
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=root, text=True
    )
    pages = {root / name: (root / name).read_text() for name in listed.split() if (root / name).exists()}
    code = " ".join(file.read_text() for file in root.glob("crates/*/src/**/*.rs"))
    code = re.sub(r"\\\n\s*", "", code)
    wrong, links = [], 0
    for path, text in pages.items():
        prose = COMMENT.sub(blank, FENCE.sub(blank, text))
        say = lambda line, what: wrong.append(f"{path.relative_to(root)}:{line}: {what}")
        for number, line in enumerate(prose.splitlines(), 1):
            if len(line) > LINE_LEN_MAX and not line.lstrip().startswith("|"):
                say(number, f"{len(line)} characters in a line, and {LINE_LEN_MAX} are the most")
            for word in NO_PART.findall(CODE.sub("", line)):
                say(number, f'"{word}" names no part')
        for match in MESSAGE.finditer(prose if path.name != "CHANGELOG.md" else ""):
            if " ".join(match.group(1).split()) not in code:
                line = prose.count("\n", 0, match.start()) + 1
                say(line, f'no log message "{match.group(1)}"')
        for match in LINK.finditer(CODE.sub(lambda code: " " * len(code.group(0)), prose)):
            target, _, anchor = match.group(1).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            links += 1
            number = prose.count("\n", 0, match.start()) + 1
            page = (path.parent / target).resolve() if target else path
            if not page.exists():
                say(number, f"no file {target}")
            elif anchor and (page not in pages or anchor not in anchors(pages[page])):
                say(number, f"no heading #{anchor} in {target or path.name}")
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"docs: {len(pages)} pages, {links} links")


if __name__ == "__main__":
    main()
