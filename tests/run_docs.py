#!/usr/bin/env python3
"""Runs the command blocks of a Markdown page as printed, in order, in one shell and one empty folder.

    run_docs.py PAGE NOT_RUN     NOT_RUN: how many blocks of the page are marked as not run

Blocks by the word after the fence:

    console    Each line that begins with `$ ` is a command. A command that ends in a backslash continues in the
               next line. The lines below it are its output. If there are none, the output is not compared.
               A command that ends in `# leave it running` runs in the background. The next command starts when
               the log of the first says that it is ready.
    sh         A script, pasted as a whole.
    toml       Data that has to be TOML.
    others     Data. A block without a word is a picture, and has no commands.

In the output, `…` stands for any text, and for any lines if it is alone. SIDs of domains, times, long
hexadecimal numbers and the widths of columns are not compared.

Comments in the page, above a block:

    <!-- not run: REASON -->     It is not run.
    <!-- file: NAME -->          It is written to this file; `append:` in place of `file:` adds to one.
    <!-- exits with N -->        The exit status of its last command; by default 0.
    <!-- before                  Commands that readers do not need, such as a set-up. They stop at a failure.
    COMMANDS
    -->

The shell has network, mount and process namespaces of its own. So fixed ports are free, and what the shell
starts ends with it. `/run` is empty there, the host names below resolve to addresses of this machine, and
`$PAGES` is the folder of the repository.
"""
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

INSIDE = "RCMPD_DOCS_INSIDE"
COMMAND_TIME_S = 120
READY = re.compile(r"\bReady\b|\baddress=")
# A service has an address before it is ready.
SERVICE_READY = re.compile(r"\bReady\b")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
COMMENT = re.compile(r"<!--(.*?)-->", re.S)
HOSTS = {
    "127.0.0.1": "localhost dc1.contoso.example pki.contoso.example",
    "127.0.0.2": "dc1.fabrikam.example",
    "127.0.0.3": "dc1.litware.example",
    "127.0.0.4": "db1.example db2.example db3.example",
}
VARIES = [
    (re.compile(r"S-1-5-21(-\d+){3}"), "S-1-5-21-N"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\b[0-9a-f]{16,}\b"), "HEX"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|MiB)\b"), "N"),
]


class Wrong(Exception):
    """A command did something else than the page says."""


class Block:
    def __init__(self, line, word, text):
        self.line, self.word, self.text = line, word, text
        self.reason = self.file = None
        self.append, self.status = False, 0


def steps(page):
    """What is to be done, in order: `(line, commands)` of hidden commands, and blocks."""
    found, line_of = [], lambda at: page.count("\n", 0, at) + 1
    fences = list(FENCE.finditer(page))
    inside = [(fence.start(), fence.end()) for fence in fences]
    notes = [n for n in COMMENT.finditer(page) if not any(a < n.start() < b for a, b in inside)]
    for fence in fences:
        indent, word, text = fence.groups()
        text = "".join(line.removeprefix(indent) for line in text.splitlines(True))
        found.append((fence.start(), Block(line_of(fence.start()), word, text)))
    blocks = list(found)
    for note in notes:
        text = note.group(1).strip()
        if text.startswith("before\n"):
            found.append((note.start(), (line_of(note.start()), text.removeprefix("before\n"))))
            continue
        name, _, value = text.partition(":")
        status = re.fullmatch(r"exits with (\d+)", text)
        if name not in ("not run", "file", "append") and not status:
            continue
        block = next((block for start, block in blocks if start > note.end()), None)
        between = page[note.end() :].split("```", 1)[0]
        if block is None or COMMENT.sub("", between).strip():
            raise Wrong(f"line {line_of(note.start())}: no block follows the comment")
        if status:
            block.status = int(status.group(1))
        elif name == "not run":
            block.reason = value.strip()
        else:
            block.file, block.append = value.strip(), name == "append"
    return [step for _, step in sorted(found, key=lambda pair: pair[0])]


def commands(text):
    """`(command, output)` of a console block."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif found and not found[-1][1] and found[-1][0].endswith("\\"):
            found[-1][0] += "\n" + line
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            raise Wrong(f"output without a command: {line}")
    return found


def plain(text):
    for pattern, word in VARIES:
        text = pattern.sub(word, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def agrees(expected, told):
    pattern = ""
    for line in plain("\n".join(expected)):
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split("…")) + "\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in plain(told))) is not None


class Shell:
    """A shell that keeps its variables and its jobs from one command to the next."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.bash = subprocess.Popen(["bash"], stdin=subprocess.PIPE, cwd=folder, text=True)

    def run(self, text, background=False):
        """The exit status and the output, of both streams."""
        self.count += 1
        script, told, ended = (self.folder.parent / f"{self.count}.{name}" for name in ("sh", "out", "end"))
        script.write_text(f"exec {text}\n" if background else f"{text}\n")
        source = f". {script} >{told} 2>&1 </dev/null"
        end = " &" if background else f"\necho $? >{ended}.new; mv {ended}.new {ended}"
        self.bash.stdin.write(f"{source}{end}\n")
        self.bash.stdin.flush()
        deadline = time.monotonic() + COMMAND_TIME_S
        while True:
            output = told.read_text(errors="replace") if told.exists() else ""
            ready = SERVICE_READY if "rcmpd serve" in text else READY
            if background and ready.search(output):
                return 0, output
            if ended.exists():
                return int(ended.read_text()), told.read_text(errors="replace")
            if self.bash.poll() is not None:
                raise Wrong(f"ends the shell:\n$ {text}\n{output}")
            if time.monotonic() > deadline:
                raise Wrong(f"does not end, or does not get ready, in {COMMAND_TIME_S} s:\n$ {text}\n{output}")
            time.sleep(0.02)

    def expect(self, line, text, status, background=False):
        got, told = self.run(text, background)
        if got != status:
            raise Wrong(f"line {line}: exits with {got}, not {status}:\n$ {text}\n{told}")
        return told


def run(name, page, not_run, shell):
    count, reasons = 0, []
    for step in steps(page):
        if isinstance(step, tuple):
            shell.expect(step[0], "set -e; " + step[1] + "\nset +e", 0)
            continue
        block = step
        if block.word == "toml":
            try:
                tomllib.loads(block.text)
            except tomllib.TOMLDecodeError as error:
                raise Wrong(f"line {block.line}: {error}") from error
        if block.reason is not None:
            reasons.append(f"line {block.line}: {block.reason}")
        elif block.file:
            path = shell.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a" if block.append else "w") as file:
                file.write(block.text)
        elif block.word == "sh":
            shell.expect(block.line, block.text, block.status)
            count += 1
        elif block.word == "console":
            all_commands = commands(block.text)
            for command, output in all_commands:
                last = command is all_commands[-1][0]
                background = command.endswith("# leave it running")
                told = shell.expect(block.line, command, block.status if last else 0, background)
                if output and not agrees(output, told):
                    shown = "\n".join(output)
                    both = f"--- as printed\n{shown}\n--- as it is\n{told}"
                    raise Wrong(f"line {block.line}: $ {command}\n{both}")
                count += 1
        elif not block.word and re.search(r"^ *(\$ |rcmpd |make |openssl |curl )", block.text, re.M):
            raise Wrong(f"line {block.line}: a block with commands is `console` or `sh`")
    if len(reasons) != not_run:
        raise Wrong(f"{len(reasons)} blocks are not run, and {not_run} may be:\n" + "\n".join(reasons))
    print(f"{name}: {count} commands, {not_run} blocks not run")


def enter(arguments):
    """Starts this script again in namespaces of its own."""
    environment = {**os.environ, INSIDE: "1", "NO_COLOR": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    environment.pop("RCMPD_CONFIG", None)
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        namespaces += ["--user", "--map-root-user"]
    command = ["unshare", *namespaces, sys.executable, __file__, *arguments]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if INSIDE not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["RCMPD_DOCS_FOLDER"] = folder
            sys.exit(enter(sys.argv[1:]))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    outside = Path(os.environ["RCMPD_DOCS_FOLDER"])
    outside.chmod(0o755)
    hosts, folder = outside / "hosts", outside / "work"
    hosts.write_text("".join(f"{address} {names}\n" for address, names in HOSTS.items()))
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    folder.mkdir()
    os.environ["HOME"] = str(folder)
    os.environ["PAGES"] = str(Path(__file__).resolve().parent.parent)
    shell, page = Shell(folder), Path(sys.argv[1]).read_text()
    try:
        run(sys.argv[1], page, int(sys.argv[2]), shell)
    except Wrong as wrong:
        sys.exit(f"{sys.argv[1]}: {wrong}")


if __name__ == "__main__":
    main()
