"""Asks an ext_authz service as Envoy does, with Envoy's own messages (envoy-data-plane) and gRPC's own client (grpcio).

    envoy_client.py JSON           target (HOST:PORT), checks: [{certificate (PEM file or PEM), host, path, headers {name: value},
                                   raw_headers [name], metadata {name: value}, source}], health: [service]

`source` replaces what Envoy says in `attributes.source.certificate` as it is. Prints {"checks": [CheckResponse or {"error": name of the
call's status}], "health": [status, or name of the call's status]}. Statuses, enumerations and values of a Struct as protobuf's JSON has them.
"""

import json
import pathlib
import sys
import urllib.parse

import grpc
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth

SECONDS = 20


def escaped(certificate):
    """URL-encoded PEM, as in `AttributeContext.Peer.certificate`."""
    if certificate and "BEGIN" not in certificate:
        certificate = pathlib.Path(certificate).read_text()
    return urllib.parse.quote(certificate, safe="")


def request(given):
    certificate = given.get("source", escaped(given.get("certificate", "")))
    raw = [core.HeaderValue(key=name, raw_value=b"x") for name in given.get("raw_headers", [])]
    http = auth.AttributeContextHttpRequest(
        method="GET", scheme="https", protocol="HTTP/2", size=-1, host=given["host"], path=given["path"],
        headers={**given.get("headers", {}), ":path": given["path"]}, header_map=core.HeaderMap(headers=raw) if raw else None)
    peer = auth.AttributeContextPeer(certificate=certificate)
    return auth.CheckRequest(attributes=auth.AttributeContext(source=peer, request=auth.AttributeContextRequest(http=http)))


def check(channel, given):
    call = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check", bytes, auth.CheckResponse.FromString)
    try:
        return call(request(given), timeout=SECONDS, metadata=list(given.get("metadata", {}).items())).to_dict()
    except grpc.RpcError as error:
        return {"error": error.code().name}


def health(channel, service):
    """grpc.health.v1: one string in field 1 is asked, one enumeration in field 1 is answered; zero, UNKNOWN, is left out."""
    name = service.encode()
    call = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
    try:
        answer = call(b"\x0a" + bytes([len(name)]) + name, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code().name
    return {b"": "UNKNOWN", b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}.get(answer, answer.hex())


def main():
    text = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
    given = json.loads(sys.stdin.read() if text == "-" else text)
    with grpc.insecure_channel(given["target"]) as channel:
        checks = [check(channel, one) for one in given.get("checks", [])]
        print(json.dumps({"checks": checks, "health": [health(channel, name) for name in given.get("health", [])]}))


if __name__ == "__main__":
    sys.exit(main())
