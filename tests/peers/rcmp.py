"""[MS-RCMP] messages for the peers, written from the document alone; what both peer clients say and how they report it.

It shares nothing with the product, so an error in one is seen by the other.
"""

import base64
import json
import pathlib
import struct
import sys

PACKAGE = "Microsoft Unified Security Protocol Provider"
METHODS = {"upn": 0x10, "subject": 0x20, "issuer": 0x40, "chain": 0x80}
REQ_HEADER = struct.Struct("<6I")   # MessageType Length OffsetCertificate CertLength Flags IssuerCount
RESP_HEADER = struct.Struct("<8I")  # MessageType Length OffsetAuthData AuthDataLength Flags OffsetDomain DomainLength Align


def der(source):
    """The certificate in a PEM file, or hex itself."""
    if pathlib.Path(source).is_file():
        text = pathlib.Path(source).read_text()
        body = text.split("-----BEGIN CERTIFICATE-----")[1].split("-----END CERTIFICATE-----")[0]
        return base64.b64decode("".join(body.split()))
    return bytes.fromhex(source)


def element(data, at):
    """The DER element at `at`: its tag, where its content begins, where it ends."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[at + 2:start], "big")
    if start + length > len(data):
        raise ValueError("DER element runs past the end")
    return data[at], start, start + length


def issuer_name(certificate):
    """tbsCertificate.issuer as it is encoded."""
    _, at, _ = element(certificate, 0)
    _, at, _ = element(certificate, at)
    tag, _, end = element(certificate, at)
    if tag == 0xA0:  # version
        _, _, end = element(certificate, end)
    at = end         # past the serial number
    _, _, at = element(certificate, at)
    _, _, end = element(certificate, at)
    return certificate[at:end]


def made_up_name(number, length):
    """An X.501 Name of one commonName of about `length` bytes."""
    def wrap(tag, content):
        size = len(content)
        head = bytes([size]) if size < 0x80 else bytes([0x82]) + size.to_bytes(2, "big")
        return bytes([tag]) + head + content
    text = f"Made-up issuer {number} ".encode().ljust(length, b"x")
    return wrap(0x30, wrap(0x31, wrap(0x30, wrap(0x06, bytes([0x55, 0x04, 0x03])) + wrap(0x0C, text))))


def encode_request(certificate, issuers, flags, pad_to=0):
    """SSL_CERT_LOGON_REQ, section 2.2.1; gaps in the payload are allowed, so `pad_to` makes it that long."""
    at = REQ_HEADER.size + 8 * len(issuers)
    payload, places = bytearray(certificate), []
    for name in issuers:
        payload += bytes((at + len(payload)) % 2)
        places.append((at + len(payload), len(name)))
        payload += name
    payload += bytes(max(0, pad_to - at - len(payload)))
    head = REQ_HEADER.pack(2, at + len(payload), at, len(certificate), flags, len(issuers))
    return head + b"".join(struct.pack("<II", *place) for place in places) + bytes(payload)


def decode_response(data):
    """SSL_CERT_LOGON_RESP, section 2.2.2, with every rule a client checks."""
    if len(data) < RESP_HEADER.size:
        raise ValueError(f"response of {len(data)} bytes is shorter than its header")
    kind, length, pac_at, pac_len, flags, domain_at, domain_len, align = RESP_HEADER.unpack_from(data)
    if kind != 2 or not RESP_HEADER.size <= length <= len(data):
        raise ValueError(f"MessageType {kind}, Length {length} of {len(data)} bytes")
    if pac_at < RESP_HEADER.size or pac_at % 8 or pac_at + pac_len > length:
        raise ValueError(f"AuthData at {pac_at}, {pac_len} bytes, of {length}")
    if domain_at < RESP_HEADER.size or domain_len == 0 or domain_len % 2 or domain_at + domain_len > length:
        raise ValueError(f"domain name at {domain_at}, {domain_len} bytes, of {length}")
    return {"length": length, "offset_auth_data": pac_at, "auth_data_length": pac_len, "flags": flags, "offset_domain": domain_at,
            "domain_length": domain_len, "align": align, "domain": data[domain_at:domain_at + domain_len].decode("utf-16-le"),
            "pac": data[pac_at:pac_at + pac_len].hex()}


def question_data(question):
    """What goes into LogonData: `data` as given, or an RCMP request about `certificate`."""
    if "data" in question:
        return bytes.fromhex(question["data"])
    certificate = der(question["certificate"])
    flags = question.get("flags", 0)
    for method in question.get("methods", () if "flags" in question else ("upn", "subject")):
        flags |= METHODS[method]
    issuers = [issuer_name(certificate)] if question.get("leaf_issuer", True) else []
    issuers += [issuer_name(der(source)) for source in question.get("issuers", [])]
    issuers += [made_up_name(number, question.get("extra_issuer_length", 64)) for number in range(question.get("extra_issuers", 0))]
    return encode_request(certificate, issuers, flags, question.get("pad_to", 0))


def status(value):
    return f"0x{value & 0xFFFFFFFF:08X}"


def arguments(documentation):
    """The one JSON object a peer is called with, as argument or on standard input (`-`), with the usual values filled in."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(documentation)
    given = json.loads(sys.stdin.read() if sys.argv[1] == "-" else sys.argv[1])
    given.setdefault("account", "WEB01$")
    given.setdefault("computer", given["account"].rstrip("$"))
    given.setdefault("domain", "CONTOSO")
    given.setdefault("server", "\\\\" + given["host"])
    if "secret_file" in given:
        given["secret"] = pathlib.Path(given["secret_file"]).read_text().rstrip("\n")
    return given


def finish(result):
    """The one JSON object a peer prints. Whatever the server said, the peer did its job: the caller judges."""
    print(json.dumps(result))
