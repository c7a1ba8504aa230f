"""PDUs of DCE/RPC with a security trailer, written from C706 and [MS-RPCE] alone, for peers that bring tokens of their own."""

import socket
import struct
import uuid

REQUEST, RESPONSE, FAULT, BIND, BIND_ACK, BIND_NAK, ALTER, ALTER_RESPONSE, AUTH3 = 0, 2, 3, 11, 12, 13, 14, 15, 16
FIRST, LAST, HEADER_SIGN = 1, 2, 4
SPNEGO, NTLM, KERBEROS = 9, 10, 16
PRIVACY, CONTEXT = 6, 0
TIMEOUT_SECONDS = 30
MASTER_SECRET = uuid.UUID("9d07ca0d-8f02-4ed5-b727-acf37fea5bbc").bytes_le + struct.pack("<HH", 1, 0)
NDR = uuid.UUID("8a885d04-1ceb-11c9-9fe8-08002b104860").bytes_le + struct.pack("<HH", 2, 0)


class Refused(Exception):
    pass


class Connection:
    def __init__(self, host, port, auth_type, level=PRIVACY):
        self.auth_type, self.level, self.call_id = auth_type, level, 0
        self.socket = socket.create_connection((host, port), TIMEOUT_SECONDS)

    def close(self):
        self.socket.close()

    def header(self, kind, flags, body, token=None):
        """The first 16 octets of a PDU with a body after them, and a token of so many octets after the trailer. Without a token there is
        no trailer."""
        size = 16 + body + (0 if token is None else 8 + token)
        return struct.pack("<BBBB4sHHI", 5, 0, kind, flags, b"\x10\0\0\0", size, token or 0, self.call_id)

    def trailer(self, pad):
        return struct.pack("<BBBBI", self.auth_type, self.level, pad, 0, CONTEXT)

    def offer(self, kind, token, flags=FIRST | LAST | HEADER_SIGN):
        """Sends a bind or an alter_context, and gives the answer and the length of its token."""
        body = struct.pack("<HHIBxxxHBx", 65528, 65528, 0, 1, CONTEXT, 1) + MASTER_SECRET + NDR
        self.call_id += 1
        self.socket.sendall(self.header(kind, flags, len(body), len(token)) + body + self.trailer(0) + token)
        return self.receive()

    def receive(self):
        """A PDU, and the length of its token."""
        header = self.exactly(16)
        length, auth = struct.unpack("<HH", header[8:12])
        return header + self.exactly(length - 16), auth

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise Refused("closed")
            data += more
        return data
