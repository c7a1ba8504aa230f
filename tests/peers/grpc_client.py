"""Calls the service of grpc_server.py through the TLS-terminating proxy, by gRPC's own client (grpcio).

    grpc_client.py JSON            target (HOST:PORT), name (of the site), ca, certificate, key (PEM files; without the latter two none is shown)

Prints what came of each call: {"unary", "metadata", "initial", "trailing", "download", "upload", "chat", "refuse", "fail", "deadline", "cancel",
"parallel", "cancelled"}. A failed call is {"code", "details", "trailing"}.
"""

import json
import queue
import sys
import time
from concurrent import futures

import grpc

SECONDS = 60
PIECE = b"y" * (64 << 10)


def pairs(metadata):
    return [[key, value if isinstance(value, str) else value.hex()] for key, value in metadata or ()]


def failed(error):
    return {"code": error.code().name, "details": error.details(), "trailing": pairs(error.trailing_metadata())}


def attempt(call):
    try:
        return call()
    except grpc.RpcError as error:
        return failed(error)


def main():
    given = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
    read = lambda name: open(given[name], "rb").read() if name in given else None
    credentials = grpc.ssl_channel_credentials(read("ca"), read("key"), read("certificate"))
    options = [("grpc.ssl_target_name_override", given["name"]), ("grpc.enable_retries", 0)]
    channel = grpc.secure_channel(given["target"], credentials, options)
    path = "/test.Echo/".__add__
    got = {}

    unary = lambda name, message, **more: channel.unary_unary(path(name))(message, **{"timeout": SECONDS, **more})
    got["unary"] = attempt(lambda: unary("Unary", b"ab").decode())
    if isinstance(got["unary"], dict):
        return got

    def metadata():
        forged = (("remote-user", "root"), ("remote_user", "root"), ("x-forwarded-for", "198.51.100.1"), ("x-own", "kept"),
                  ("x-own-bin", b"\x00\xfe"))
        message, call = channel.unary_unary(path("Metadata")).with_call(b"", timeout=SECONDS, metadata=forged)
        got["initial"], got["trailing"] = pairs(call.initial_metadata()), pairs(call.trailing_metadata())
        return json.loads(message)

    got["metadata"] = attempt(metadata)
    pieces = given.get("pieces", 256)
    got["download"] = attempt(lambda: sum(map(len, channel.unary_stream(path("Download"))(str(pieces).encode(), timeout=SECONDS))))
    upload = channel.stream_unary(path("Upload"))
    got["upload"] = attempt(lambda: upload(iter([PIECE] * pieces), timeout=SECONDS).decode())

    def chat():
        """Each message is answered before the next one is sent."""
        messages, said = queue.Queue(), []
        answers = channel.stream_stream(path("Chat"))(iter(messages.get, None), timeout=SECONDS)
        for message in (b"one", b"two", b"three"):
            messages.put(message)
            said.append(next(answers).decode())
        messages.put(None)
        return said + [len(list(answers))]

    got["chat"] = attempt(chat)
    got["refuse"] = attempt(lambda: channel.stream_unary(path("Refuse"))(iter([PIECE] * 64), timeout=SECONDS))

    def fail():
        answers, said = channel.unary_stream(path("Fail"))(b"", timeout=SECONDS), []
        try:
            for answer in answers:
                said.append(answer.decode())
        except grpc.RpcError as error:
            return {"said": said, **failed(error)}

    got["fail"] = fail()
    got["deadline"] = attempt(lambda: unary("Slow", b"", timeout=0.5))

    def cancel():
        answers = channel.unary_stream(path("Watch"))(b"", timeout=SECONDS)
        first = next(answers).decode()
        answers.cancel()
        return first

    got["cancel"] = attempt(cancel)
    with futures.ThreadPoolExecutor(20) as pool:
        got["parallel"] = list(pool.map(lambda n: attempt(lambda: unary("Unary", str(n).encode()).decode()), range(20)))
    # The application learns of both a moment later.
    until = time.monotonic() + SECONDS
    while (count := int(unary("Cancelled", b""))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    got["cancelled"] = count
    return got


print(json.dumps(main()))
