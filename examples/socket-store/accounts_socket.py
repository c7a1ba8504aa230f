#!/usr/bin/env python3
"""A store of accounts for rcmpd (kind = "socket"): answers from a file that `rcmpd export` wrote.

    python3 accounts_socket.py accounts.jsonl /run/accounts/rcmpd.sock --allow rcmpd

It needs nothing beside Python 3.9. The protocol is described in docs/socket-store.md. Replace `Accounts` by a class that asks your own
database; `serve` stays as it is.
"""
import argparse
import hashlib
import json
import os
import pwd
import signal
import socket
import socketserver
import struct
import sys
import threading
import unicodedata

VERSION = 1
QUESTION_LEN_MAX = 65536
ACCOUNTS_MAX = 64
ANSWER_LEN_MAX = 2 << 20
CONNECTIONS_MAX = 64


def wide(text):
    """Equal for all texts that rcmpd may take for equal, and for some more: rcmpd compares every account that it gets again."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())


def is_ignored(char):
    return unicodedata.category(char) in ("Mn", "Cc", "Cf", "Cn", "Zs") or char in "\u115f\u1160\u3164"


def fold(text):
    """The same for mappings: without accents, width and case, with Hiragana as Katakana, and without spaces."""
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if not is_ignored(char))
    return text.translate({code: code + 0x60 for code in range(0x3041, 0x3097)}).upper()


class Accounts:
    """The accounts of one file, read once."""

    def __init__(self, lines, domain):
        self.revision = hashlib.sha256("".join(lines).encode()).hexdigest()
        self.places, self.mappings, groups, accounts = {}, [], {}, []
        for line in filter(None, map(str.strip, lines)):
            entry = json.loads(line)
            kind = entry.pop("type")
            if kind == "group":
                groups[entry["sid"]] = entry
            elif kind == "account":
                accounts.append(entry)
        first = next((entry["sid"] for entry in [*groups.values(), *accounts]), f"{domain}-0")
        self.domain = first.rpartition("-")[0]
        for account in accounts:
            candidate = {"account": account, "groups": self.groups_of(account, groups)}
            profile = account.get("profile", {})
            places = [("name", account["name"]), ("user_principal_name", account.get("user_principal_name")), ("mail", profile.get("mail"))]
            places += [("service_principal_name", name) for name in account.get("service_principal_names", [])]
            keys = {(by, wide(text)) for by, text in places if text} | {("sid", account["sid"])}
            for key in keys:
                self.places.setdefault(key, []).append(candidate)
            mappings = [fold(value) for value in account.get("alt_security_identities", [])]
            if mappings:
                self.mappings.append((mappings, candidate))

    def groups_of(self, account, groups):
        """All groups of an account, also by way of other groups, with its primary group."""
        primary = f"{self.domain}-{account.get('primary_group_id', 515 if account['name'].endswith('$') else 513)}"
        todo, found = [primary, *account.pop("member_of", [])], {}
        while todo:
            sid = todo.pop()
            if sid not in found:
                group = groups.get(sid, {})
                found[sid] = {"sid": sid, **{key: group[key] for key in ("name", "scope") if key in group}}
                todo += group.get("member_of", [])
        return list(found.values())

    def find(self, question):
        """The accounts that a question may name."""
        by, text = question["by"], question["text"]
        if by == "alt_security_identity":
            parts = [fold(part) for part in question["folded"]]
            has_all = lambda value: all(part in value for part in parts)
            return [candidate for values, candidate in self.mappings if any(map(has_all, values))]
        return self.places.get((by, text if by == "sid" else wide(text)), [])


class File:
    """The accounts of a file, which is read again when it was changed. A file that cannot be used is an error, never an empty list."""

    def __init__(self, path):
        self.path, self.lock, self.seen, self.accounts = path, threading.Lock(), None, None

    def of(self, domain):
        with self.lock:
            found = os.stat(self.path)
            seen = (found.st_ino, found.st_size, found.st_mtime_ns, domain)
            if seen != self.seen:
                self.seen = None
                with open(self.path, encoding="utf-8") as file:
                    lines = file.readlines()
                last = json.loads(lines[-1]) if lines else {}
                if last.get("type") != "end":
                    raise ValueError("the file lacks its last line, which says that it is whole")
                self.accounts, self.seen = Accounts(lines, domain), seen
            return self.accounts


def receive(stream, len_max):
    """The body of a frame, or nothing at the end of the connection."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">I", head)
    if not 0 < length <= len_max:
        raise ValueError(f"a frame of {length} bytes")
    body = stream.read(length)
    return json.loads(body) if len(body) == length else None


def send(stream, message):
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def answer(accounts, question):
    found = accounts.find(question) if question["ask"] == "accounts" else None
    reply = {"number": question["number"], "revision": accounts.revision}
    if found is not None:
        reply["accounts"], left = [], ANSWER_LEN_MAX - 4096
        for candidate in found[:ACCOUNTS_MAX]:
            left -= len(json.dumps(candidate, ensure_ascii=False).encode())
            if left < 0:
                break
            reply["accounts"].append(candidate)
        reply["more"] = len(reply["accounts"]) < len(found)
    return reply


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        credentials = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] not in self.server.allowed:
            return
        with self.server.places:
            try:
                self.converse()
            except (ConnectionError, ValueError, KeyError, TypeError) as error:
                print(f"connection closed: {error!r}", file=sys.stderr, flush=True)

    def converse(self):
        hello = receive(self.rfile, QUESTION_LEN_MAX)
        if hello is None:
            return
        try:
            accounts = self.server.file.of(hello["domain"])
        except (OSError, ValueError, KeyError) as error:
            return send(self.wfile, {"error": f"the accounts cannot be read: {error}"})
        send(self.wfile, {"hello": "accounts_socket.py", "version": VERSION, "domain": accounts.domain, "revision": accounts.revision})
        while (question := receive(self.rfile, QUESTION_LEN_MAX)) is not None:
            try:
                reply = answer(self.server.file.of(hello["domain"]), question)
            except (OSError, ValueError, KeyError) as error:
                reply = {"number": question["number"], "error": f"the accounts cannot be read: {error}"}
            send(self.wfile, reply)


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def user(text):
    return int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid


def main():
    parser = argparse.ArgumentParser(description="Answers rcmpd about the accounts of a file.")
    parser.add_argument("file", help="what `rcmpd export` wrote; replace it with mv")
    parser.add_argument("socket")
    parser.add_argument("--allow", action="append", type=user, metavar="USER", help="who may ask beside root and the own user, by name or number")
    parser.add_argument("--mode", type=lambda text: int(text, 8), default=0o660, help="of the socket (default 660)")
    arguments = parser.parse_args()
    try:
        os.unlink(arguments.socket)
    except FileNotFoundError:
        pass
    os.umask(0o777 & ~arguments.mode)
    with Server(arguments.socket, Handler) as server:
        server.allowed = {0, os.geteuid(), *(arguments.allow or [])}
        server.file = File(arguments.file)
        server.places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"Ready at {arguments.socket}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
