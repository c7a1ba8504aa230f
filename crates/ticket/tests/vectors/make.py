#!/usr/bin/env python3
"""Writes the tickets beside this file from the description of the format, with the primitives of another project.

usage: make.py            (needs: pip install cryptography)
"""

import pathlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HERE = pathlib.Path(__file__).resolve().parent
SALT = bytes(range(0x40, 0x60))
# S-1-5-21-1-2-3-1104 ([MS-DTYP] 2.4.2.2)
SID = bytes([1, 5]) + (5).to_bytes(6, "big") + struct.pack("<5I", 21, 1, 2, 3, 1104)


def filetime(unix):
    return (unix + 11_644_473_600) * 10_000_000


def sealed(kind, claims, version=1):
    root = bytes(range(32))
    header = bytes([version, kind]) + struct.pack("<I", 7) + SALT
    derived = HKDF(hashes.SHA256(), 44, SALT, b"rcmpd ticket 1: session").derive(root)
    return header + AESGCMSIV(derived[:32]).encrypt(derived[32:], claims, header)


def ticket(kind, issued=1_800_000_000, expires=1_800_003_600, data=b"alice", version=1):
    claims = struct.pack("<QQB", filetime(issued), filetime(expires), 11) + b"web.example" + SID
    claims += bytes(range(0x80, 0xA0)) if kind == 1 else b""
    claims += struct.pack("<H", len(data)) + data
    return sealed(kind, claims, version)


(HERE / "reusable.bin").write_bytes(ticket(1))
(HERE / "one-time.bin").write_bytes(ticket(2))
(HERE / "state.bin").write_bytes(sealed(3, struct.pack("<QB", filetime(1_800_003_600), 11) + b"web.exampleof a session"))
# What our own side does not seal, and has to refuse.
(HERE / "long-life.bin").write_bytes(ticket(1, expires=1_800_000_000 + 86_401))
(HERE / "backwards.bin").write_bytes(ticket(1, expires=1_800_000_000))
(HERE / "long-data.bin").write_bytes(ticket(1, data=bytes(1025)))
