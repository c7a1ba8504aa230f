#!/usr/bin/env python3
"""OpenSSL as one side of a TLSNEGO negotiation: TLS in memory, and the proof key, without XML.

A line of standard input with a role begins a negotiation. Each other line is a step, and is answered by a line. Lines are
JSON, and octets are in hexadecimal:

  {"role": "client" or "server", "versions": [least, most], "certificate": PEM file, "key": PEM file,
   "asks": PEM file with the client certificate that a server asks for, "tickets": TLS 1.3 tickets of a server,
   "tickets_with_key": whether they come with the key, "close_notify": whether a server ends TLS behind the key}
  {"receive": octets}                     -> {"send": octets, "done": whether the handshake is complete}
  {"unwrap": octets, "legs": [octets]}    -> {"key": octets, "combined_hash": octets, ...}, of a client
  {"wrap": key, "legs": [octets]}         -> {"cipher_value": octets, "combined_hash": octets, ...}, of a server

Each answer about a key has "version", and "peer", the certificate that was shown. An error is {"error": text, "send": alert}.
"""
import hashlib
import hmac
import json
import ssl
import sys

VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


def p_sha1(secret, seed, length):
    mac = lambda octets: hmac.new(secret, octets, hashlib.sha1).digest()
    output, a = b"", seed
    while len(output) < length:
        a = mac(a)
        output += mac(a + seed)
    return output[:length]


def combined_hash(key, legs):
    return p_sha1(key, b"AUTH-HASH" + hashlib.sha1(b"".join(legs)).digest(), 32)


class Peer:
    def __init__(self, role, versions, certificate=None, key=None, asks=False, tickets=0, **options):
        is_server = role == "server"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if VERSIONS[versions[0]] < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = (VERSIONS[version] for version in versions)
        if certificate:
            context.load_cert_chain(certificate, key)
        if is_server:
            context.num_tickets = tickets
        if asks:
            context.load_verify_locations(asks)
            context.verify_mode = ssl.CERT_REQUIRED
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=is_server)
        self.options = options
        self.done = False

    def receive(self, octets):
        self.incoming.write(octets)
        try:
            if not self.done:
                self.tls.do_handshake()
                self.done = True
            elif octets:
                # Tickets alone.
                unexpected = self.tls.read(1)
                raise ValueError(f"application data: {unexpected!r}")
        except ssl.SSLWantReadError:
            pass
        if self.done and self.options.get("tickets_with_key"):
            return b""
        return self.outgoing.read()

    def facts(self, key, legs):
        return {
            "key": key.hex(),
            "combined_hash": combined_hash(key, legs).hex(),
            "version": self.tls.version(),
            "peer": (self.tls.getpeercert(binary_form=True) or b"").hex(),
        }

    def unwrap(self, octets, legs):
        self.incoming.write(octets)
        key = self.tls.read(4096)
        if self.incoming.pending:
            raise ValueError("octets behind the key")
        return self.facts(key, legs)

    def wrap(self, key, legs):
        assert self.done
        self.tls.write(key)
        if self.options.get("close_notify"):
            try:
                self.tls.unwrap()
            except ssl.SSLWantReadError:
                pass
        return self.facts(key, legs) | {"cipher_value": self.outgoing.read().hex()}


def main():
    lines = map(json.loads, sys.stdin)
    peer = None
    for line in lines:
        if "role" in line:
            peer = Peer(**line)
            continue
        legs = [bytes.fromhex(leg) for leg in line.get("legs", [])]
        try:
            if "receive" in line:
                answer = {"send": peer.receive(bytes.fromhex(line["receive"])).hex(), "done": peer.done}
            elif "unwrap" in line:
                answer = peer.unwrap(bytes.fromhex(line["unwrap"]), legs)
            else:
                answer = peer.wrap(bytes.fromhex(line["wrap"]), legs)
        except (ssl.SSLError, ValueError) as error:
            answer = {"error": str(error), "send": peer.outgoing.read().hex()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
