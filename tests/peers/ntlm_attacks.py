"""Authenticates to the master secret server with messages that differ in one point from a client's, and makes one call.

    ntlm_attacks.py JSON        (or `-` to read it from standard input)

  host, port, user, password
  cases                         list of objects; what is not there is as a client has it:
    auth                        "ntlm" (default) or "spnego"
    level                       6; of each leg
    later_level                 of the last leg alone
    clear                       NegotiateFlags that are in no message
    user, password              others than those above; no user is anonymous
    mic                         "good" is promised and right, "wrong" is promised and wrong; none by default
    pairs                       object from AvId to hex: pairs that are replaced or added; null leaves one out
    twice                       AvId of a pair that is there twice
    proof                       "wrong"
    nt_response                 hex, instead of a response of version 2
    truncate                    octets of AUTHENTICATE that are sent
    session_key                 hex, instead of the encrypted session key
    list_mic                    "good" or "wrong"; none by default
    mechanisms                  list of OIDs of SPNEGO instead of NTLM's

Prints {"answers": [...]}: {"nak": reason}, {"fault": number}, {"closed": true}, or {"response": true} for each case. Where the messages
are accepted, the call, which is not sealed, gets a fault all the same.
"""

import hmac
import os
import struct
from hashlib import md5

from Cryptodome.Cipher import ARC4
from impacket import ntlm

import rcmp
import rpc_pdu

NTLM_OID, SPNEGO_OID = "1.3.6.1.4.1.311.2.2.10", "1.3.6.1.5.5.2"
AUTH_TYPES = {"spnego": rpc_pdu.SPNEGO, "ntlm": rpc_pdu.NTLM}
WHOLE = rpc_pdu.FIRST | rpc_pdu.LAST
FLAGS = 0xE0888235


def hmac_md5(key, data):
    return hmac.new(key, data, md5).digest()


def tlv(tag, content):
    size = len(content)
    length = bytes([size]) if size < 128 else (lambda octets: bytes([0x80 | len(octets)]) + octets)(size.to_bytes((size.bit_length() + 7) // 8, "big"))
    return bytes([tag]) + length + content


def oid(text):
    first, second, *rest = map(int, text.split("."))
    out = bytes([40 * first + second])
    for number in rest:
        octets = [number & 0x7F]
        while number := number >> 7:
            octets.insert(0, 0x80 | number & 0x7F)
        out += bytes(octets)
    return tlv(6, out)


def read_pairs(data):
    pairs, at = [], 0
    while True:
        number, size = struct.unpack("<HH", data[at:at + 4])
        if number == 0:
            return pairs
        pairs.append((number, data[at + 4:at + 4 + size]))
        at += 4 + size


def write_pairs(pairs):
    return b"".join(struct.pack("<HH", number, len(value)) + value for number, value in pairs) + bytes(4)


def authenticate(given, case, negotiate, challenge):
    """AUTHENTICATE, and the exported session key."""
    flags = struct.unpack("<I", challenge[20:24])[0] & FLAGS & ~case.get("clear", 0)
    size, _, at = struct.unpack("<HHI", challenge[40:48])
    pairs = read_pairs(challenge[at:at + size])
    changes = {int(number): value for number, value in case.get("pairs", {}).items()}
    if "mic" in case:
        changes.setdefault(6, "02000000")
    pairs = [pair for pair in pairs if pair[0] not in changes] + [(number, bytes.fromhex(value)) for number, value in changes.items() if value is not None]
    pairs += [pair for pair in pairs if pair[0] == case.get("twice")]
    user, password = case.get("user", given["user"]), case.get("password", given["password"])
    time = dict(read_pairs(challenge[at:at + size]))[7]
    blob = b"\1\1" + bytes(6) + time + os.urandom(8) + bytes(4) + write_pairs(pairs) + bytes(4)
    key = hmac_md5(ntlm.compute_nthash(password), (user.upper()).encode("utf-16le"))
    proof = hmac_md5(key, challenge[24:32] + blob)
    exported = os.urandom(16)
    session_key = ARC4.new(hmac_md5(key, proof)).encrypt(exported)
    if case.get("proof") == "wrong":
        proof = bytes([proof[0] ^ 1]) + proof[1:]
    response = bytes.fromhex(case["nt_response"]) if "nt_response" in case else proof + blob
    session_key = bytes.fromhex(case["session_key"]) if "session_key" in case else session_key
    fields = [bytes(24), response, b"", user.encode("utf-16le"), b"", session_key]
    head, payload = b"NTLMSSP\0" + struct.pack("<I", 3), b""
    for field in fields:
        head += struct.pack("<HHI", len(field), len(field), 88 + len(payload))
        payload += field
    head += struct.pack("<I", flags) + bytes(8)
    mic = bytes(16)
    if "mic" in case:
        mic = hmac_md5(exported, negotiate + challenge + head + bytes(16) + payload)
        mic = bytes([mic[0] ^ (case["mic"] == "wrong")]) + mic[1:]
    return (head + mic + payload)[:case.get("truncate")], exported


def list_mic(case, exported, mechanisms):
    def key(purpose):
        return md5(exported + b"session key to client-to-server " + purpose + b" key magic constant\0").digest()

    number = bytes(4)
    mac = ARC4.new(key(b"sealing")).encrypt(hmac_md5(key(b"signing"), number + mechanisms)[:8])
    return b"\1\0\0\0" + bytes([mac[0] ^ (case["list_mic"] == "wrong")]) + mac[1:] + number


def outcome(pdu):
    if pdu[2] == rpc_pdu.BIND_NAK:
        return {"nak": struct.unpack("<H", pdu[16:18])[0]}
    if pdu[2] == rpc_pdu.FAULT:
        return {"fault": struct.unpack("<I", pdu[24:28])[0]}
    return {"response": True} if pdu[2] == rpc_pdu.RESPONSE else None


def converse(given, case):
    auth, level = AUTH_TYPES[case.get("auth", "ntlm")], case.get("level", rpc_pdu.PRIVACY)
    connection = rpc_pdu.Connection(given["host"], given["port"], auth, level)
    try:
        return conversation(connection, given, case)
    except (ConnectionError, rpc_pdu.Refused):
        return {"closed": True}
    finally:
        connection.close()


def conversation(connection, given, case):
    is_spnego = connection.auth_type == rpc_pdu.SPNEGO
    negotiate = b"NTLMSSP\0" + struct.pack("<II", 1, FLAGS & ~case.get("clear", 0)) + bytes(16)
    mechanisms = tlv(0x30, b"".join(map(oid, case.get("mechanisms", [NTLM_OID]))))
    token = negotiate
    if is_spnego:
        inner = tlv(0xA0, mechanisms) + tlv(0xA2, tlv(4, negotiate))
        token = tlv(0x60, oid(SPNEGO_OID) + tlv(0xA0, tlv(0x30, inner)))
    answer, size = connection.offer(rpc_pdu.BIND, token)
    if answer[2] != rpc_pdu.BIND_ACK:
        return outcome(answer)
    token = answer[len(answer) - size:]
    challenge = token[token.index(b"NTLMSSP\0"):]
    if is_spnego:
        # The CHALLENGE is the last field that is there.
        size, _, at = struct.unpack("<HHI", challenge[40:48])
        challenge = challenge[:max(at + size, struct.unpack("<I", challenge[16:20])[0] + struct.unpack("<H", challenge[12:14])[0])]
    message, exported = authenticate(given, case, negotiate, challenge)
    connection.level = case.get("later_level", connection.level)
    if is_spnego:
        fields = tlv(0xA2, tlv(4, message))
        if "list_mic" in case:
            fields += tlv(0xA3, tlv(4, list_mic(case, exported, mechanisms)))
        answer, _ = connection.offer(rpc_pdu.ALTER, tlv(0xA1, tlv(0x30, fields)))
        if answer[2] != rpc_pdu.ALTER_RESPONSE:
            return outcome(answer)
    else:
        connection.call_id += 1
        header = connection.header(rpc_pdu.AUTH3, WHOLE, 4, len(message))
        connection.socket.sendall(header + bytes(4) + connection.trailer(0) + message)
    stub = bytes.fromhex("10000000")
    body = struct.pack("<IHH", len(stub), rpc_pdu.CONTEXT, 0) + stub
    connection.call_id += 1
    connection.socket.sendall(connection.header(rpc_pdu.REQUEST, WHOLE, len(body)) + body)
    answer, _ = connection.receive()
    return outcome(answer)


def main():
    given = rcmp.arguments(__doc__)
    rcmp.finish({"answers": [converse(given, case) for case in given["cases"]]})


if __name__ == "__main__":
    main()
