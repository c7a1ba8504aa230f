#!/usr/bin/env python3
"""Writes the vectors beside this file from the descriptions of the formats, with the primitives of other projects.

usage: make.py            (needs: pip install cryptography argon2-cffi shamir-mnemonic)
"""

import hashlib
import pathlib
import struct

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from shamir_mnemonic.shamir import RawShare, _interpolate

HERE = pathlib.Path(__file__).resolve().parent
SECRETS = [bytes(range(16)), bytes(range(0x80, 0x90))]  # newest first
NUMBERS = [5, 4]
LINEAGE = bytes(range(0xA0, 0xB0))
INSTANCE = bytes(range(0x30, 0x40))
KEY = bytes(range(0x20, 0x40))
PASSPHRASE = b"correct horse battery staple"


def hkdf(secret, salt, info, length):
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def key_id(secret):
    return hkdf(secret, None, b"rcmpd master secret 1: key id", 8)


def blob(secret, purpose, associated, plain, salt):
    derived = hkdf(secret, salt, b"rcmpd blob 1: " + purpose, 44)
    header = b"MSBL" + bytes([1, 1]) + key_id(secret) + salt
    return header + AESGCMSIV(derived[:32]).encrypt(derived[32:], plain, header + associated)


def key_header(magic, kind, name, salt, raw, cost=(0, 0, 0)):
    check = hkdf(raw, salt, b"rcmpd sealing key 1: which key: " + magic, 16)
    header = bytes([kind, len(name)]) + name + salt + struct.pack("<III", *cost) + check
    return header, hkdf(raw, salt, b"rcmpd sealing key 1: " + magic, 32)


def generations(proved=SECRETS):
    """The list, with sentinels under `proved`."""
    out = LINEAGE + bytes([len(SECRETS)])
    for index, (number, secret) in enumerate(zip(NUMBERS, SECRETS)):
        times = (1000, 0, 0) if index == 0 else (500, 1000, 2000)
        out += struct.pack("<IB8sQQQ", number, 1 + index, key_id(secret), *times)
        out += blob(proved[index], b"rcmpd/sentinel", LINEAGE + struct.pack("<I", number), b"", bytes([number]) * 32)
    return out


def envelope(magic, header, key, plain):
    nonce = bytes(range(12))
    head = magic + struct.pack("<HI", 1, len(header)) + header
    return head + nonce + AESGCMSIV(key).encrypt(nonce, plain, head)


def store(kind, name, salt, raw, cost=(0, 0, 0)):
    header, key = key_header(b"MSSF", kind, name, salt, raw, cost)
    header += INSTANCE + bytes(32) + struct.pack("<QQIQ", 7, 1100, 5, 0) + generations()
    return envelope(b"MSSF", header, key, b"".join(SECRETS))


def main():
    salt = bytes(range(0x60, 0x80))
    (HERE / "blob.bin").write_bytes(blob(SECRETS[0], b"credentials/db", b"record 7", b"the password", salt))
    (HERE / "key.bin").write_bytes(KEY)
    (HERE / "store-key.bin").write_bytes(store(1, b"file:key.bin", salt, KEY))
    cost = (19 << 10, 2, 1)
    raw = hash_secret_raw(PASSPHRASE, salt, cost[1], cost[0], cost[2], 32, Type.ID)
    (HERE / "store-passphrase.bin").write_bytes(store(2, b"passphrase:typed", salt, raw, cost))

    sender, recipient = X25519PrivateKey.from_private_bytes(bytes([9] * 32)), X25519PrivateKey.from_private_bytes(KEY)
    octets = lambda key: key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shared = sender.exchange(X25519PublicKey.from_public_bytes(octets(recipient)))
    raw = hkdf(shared, octets(sender) + octets(recipient), b"rcmpd recipient key 1", 32)
    header, key = key_header(b"MSBK", 4, b"a recipient", octets(sender), raw)
    header += struct.pack("<Q", 1234) + INSTANCE + generations()
    (HERE / "backup-recipient.bin").write_bytes(envelope(b"MSBK", header, key, b"".join(SECRETS)))

    # Sealed by an owner of the key, and wrong: the secret of generation 4 is not the one of the sentinel; or two have changed places.
    for name, proved, secrets in [
        ("backup-other-sentinel.bin", [SECRETS[0], b"another secret.."], SECRETS),
        ("backup-changed-places.bin", SECRETS, SECRETS[::-1]),
    ]:
        header, key = key_header(b"MSBK", 1, b"file:key.bin", salt, KEY)
        header += struct.pack("<Q", 1234) + INSTANCE + generations(proved)
        (HERE / name).write_bytes(envelope(b"MSBK", header, key, b"".join(secrets)))

    header, key = key_header(b"MSNK", 1, b"file:key.bin", salt, KEY)
    header += struct.pack("<QB", 5000, 2)
    header += b"".join(key_id(s) + struct.pack("<QQ", *t) for s, t in zip(SECRETS, [(4000, 0), (3000, 4000)]))
    (HERE / "node.bin").write_bytes(envelope(b"MSNK", header, key, b"".join(SECRETS)))

    # Three of any: the key at 0, and two points that are chosen freely. SLIP-39's field is the same one.
    points = [RawShare(0, KEY)] + [
        RawShare(x, hashlib.sha256(bytes([x])).digest()) for x in (1, 2)
    ]
    lines = []
    for x in range(1, 6):
        body = hkdf(KEY, None, b"rcmpd share 1: set", 4) + bytes([3, x]) + _interpolate(points, x)
        lines.append("rcmpd-share-1:" + (body + hashlib.sha256(body).digest()[:4]).hex())
    (HERE / "shares.txt").write_text("\n".join(lines) + "\n")


main()
