"""An application that speaks gRPC, by gRPC's own server (grpcio). Messages are bytes, so that no generated code is needed.

    grpc_server.py JSON            certificate, key (PEM files; without them there is no TLS)

Prints the port it got, and serves until its standard input ends. What each call of /test.Echo/ does:
  Unary       the message twice
  Metadata    the metadata of the call, as JSON; sets initial and trailing metadata
  Download    as many messages as the message says, of 64 KiB each
  Upload      the number of messages and of bytes
  Chat        each message at once
  Watch       one message, then nothing until the call is cancelled
  Refuse      PERMISSION_DENIED without reading the request, with a message that is not ASCII and trailing metadata
  Fail        one message, then RESOURCE_EXHAUSTED
  Slow        never answers; /test.Echo/Cancelled tells how many calls of Slow and Watch were cancelled
"""

import json
import sys
import threading
from concurrent import futures

import grpc

PIECE = b"x" * (64 << 10)
CANCELLED = []


def cancellation(context):
    """An event for the end of a call that only a cancellation ends, which is counted."""
    done = threading.Event()

    def end():
        CANCELLED.append(1)
        done.set()

    if not context.add_callback(end):
        end()
    return done


def unary(request, context):
    return request * 2


def metadata(request, context):
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"), ("x-bytes-bin", b"\x00\xff")))
    pairs = [[key, value if isinstance(value, str) else value.hex()] for key, value in context.invocation_metadata()]
    return json.dumps(pairs).encode()


def download(request, context):
    for _ in range(int(request)):
        yield PIECE


def upload(requests, context):
    count = size = 0
    for request in requests:
        count, size = count + 1, size + len(request)
    return f"{count} {size}".encode()


def chat(requests, context):
    yield from requests


def watch(request, context):
    # Before the first message: gRPC does not resume a generator whose call was cancelled meanwhile.
    cancelled = cancellation(context)
    yield b"first"
    cancelled.wait()


def refuse(requests, context):
    context.set_trailing_metadata((("x-last", "2"),))
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "nicht für dich")


def fail(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")


def slow(request, context):
    cancellation(context).wait()
    return b""


def count_cancelled(request, context):
    return str(len(CANCELLED)).encode()


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
    "Download": grpc.unary_stream_rpc_method_handler(download),
    "Upload": grpc.stream_unary_rpc_method_handler(upload),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Watch": grpc.unary_stream_rpc_method_handler(watch),
    "Refuse": grpc.stream_unary_rpc_method_handler(refuse),
    "Fail": grpc.unary_stream_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Cancelled": grpc.unary_unary_rpc_method_handler(count_cancelled),
}


def main():
    given = json.loads(sys.argv[1])
    server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", METHODS),))
    if "certificate" in given:
        read = lambda name: open(given[name], "rb").read()
        credentials = grpc.ssl_server_credentials([(read("key"), read("certificate"))])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)


main()
