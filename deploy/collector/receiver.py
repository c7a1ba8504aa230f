"""A receiver of OTLP/HTTP (protobuf) for the demo: it writes each span as a line of JSON to a file.

    receiver.py FILE

It listens on a free port of 127.0.0.1 and prints the address on standard error. It keeps traces alone, and takes
metrics and logs without looking at them.
"""

import gzip
import http.server
import json
import struct
import sys
import threading

BODY_LEN_MAX = 16 << 20


def fields(data):
    """The fields of a message of protobuf: (number, value), a value being a number or octets."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            octet = data[at]
            at += 1
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 1:
                yield key >> 3, struct.unpack_from("<Q", data, at)[0]
                at += 8
            case 2:
                length = varint()
                yield key >> 3, data[at : at + length]
                at += length
            case 5:
                yield key >> 3, struct.unpack_from("<I", data, at)[0]
                at += 4
            case kind:
                raise ValueError(f"wire type {kind}")


def attributes(pairs):
    """KeyValue: key 1, value 2; AnyValue: string 1, bool 2, int 3."""
    found = {}
    for pair in pairs:
        pair = dict(fields(pair))
        for kind, value in fields(pair.get(2, b"")):
            found[pair[1].decode()] = value.decode(errors="replace") if kind == 1 else value
    return found


def every(data, number):
    return (value for found, value in fields(data) if found == number)


def spans(request):
    """ExportTraceServiceRequest: resource_spans 1 {resource 1 {attributes 1}, scope_spans 2 {spans 2}}."""
    for resource_spans in every(request, 1):
        of_resource = [pair for resource in every(resource_spans, 1) for pair in every(resource, 1)]
        service = attributes(of_resource).get("service.name")
        for scope_spans in every(resource_spans, 2):
            for span in every(scope_spans, 2):
                one = dict(fields(span))
                yield {
                    "service": service,
                    "trace": one[1].hex(),
                    "span": one[2].hex(),
                    "parent": one.get(4, b"").hex(),
                    "name": one[5].decode(),
                    "kind": one.get(6, 0),
                    "start": one[7],
                    "end": one[8],
                    "attributes": attributes(every(span, 9)),
                }


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if not 0 < length <= BODY_LEN_MAX:
            return self.send_error(413)
        body = self.rfile.read(length)
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            lines = "".join(json.dumps(span) + "\n" for span in spans(body))
            with self.server.lock:
                self.server.file.write(lines)
                self.server.file.flush()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.lock = threading.Lock()
server.file = open(sys.argv[1], "w")
print(f"listening on http://127.0.0.1:{server.server_address[1]}", file=sys.stderr, flush=True)
server.serve_forever()
