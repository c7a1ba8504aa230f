"""Gets the master secret by MIT Kerberos, through python3-gssapi: run it with /usr/bin/python3 and KRB5_CONFIG.

    sso_gss.py JSON            (or `-` to read it from standard input)

  host, port                    where the interface is
  service                       the principal of the service
  mechanism                     "kerberos" (default) or "spnego"
  ccache                        the credential cache of the user
  clients                       so many connections at once, each with one call (default 1)
  last_fragment                 false: the bind lacks PFC_LAST_FRAG
  until                         a file. Clients go on until it is there: those of `held` call on one connection each, those of `again`
                                connect for each call with the ticket of the cache, and those of `fresh` connect for each call with a
                                ticket that they get from the KDC for it (the cache has to have a ticket-granting ticket alone)
  held, again, fresh            numbers of clients, with `until`
  started                       a file that is written once each client has had an answer, with `until`

Prints {"answers": {hex or text: count}, "calls": [..]}: what calls were answered with, how often, and how many each client of `until`
made. What ends a client is an answer, as text.
"""

import collections
import os
import pathlib
import shutil
import struct
import tempfile
import threading
import time

import gssapi
from gssapi.raw import ext_dce
from gssapi.raw.ext_dce import IOV, IOVBufferType

import rcmp
import rpc_pdu
from rpc_pdu import Refused

MECHANISMS = {"kerberos": (rpc_pdu.KERBEROS, gssapi.MechType.kerberos),
              "spnego": (rpc_pdu.SPNEGO, gssapi.OID.from_int_seq("1.3.6.1.5.5.2"))}
Flag = gssapi.RequirementFlag
FLAGS = (Flag.dce_style | Flag.mutual_authentication | Flag.replay_detection | Flag.out_of_sequence_detection
         | Flag.confidentiality | Flag.integrity)
# Of encryption types 17 and 18.
SEALED_TOKEN = 76
PAUSE_SECONDS = 0.1
# For the first answers to all clients.
START_SECONDS = 60
ERRORS = (OSError, Refused, gssapi.exceptions.GSSError)


class Client:
    def __init__(self, given, ccache):
        auth_type, mechanism = MECHANISMS[given.get("mechanism", "kerberos")]
        name = gssapi.Name(given["service"], name_type=gssapi.NameType.kerberos_principal)
        credentials = gssapi.Credentials(usage="initiate", store={"ccache": ccache})
        self.context = gssapi.SecurityContext(name=name, creds=credentials, mech=mechanism, flags=FLAGS, usage="initiate")
        token = self.context.step()
        self.connection = rpc_pdu.Connection(given["host"], given["port"], auth_type)
        last = rpc_pdu.LAST if given.get("last_fragment", True) else 0
        token = self.leg(rpc_pdu.BIND, token, rpc_pdu.BIND_ACK, last)
        while token or not self.context.complete:
            token = self.leg(rpc_pdu.ALTER, token, rpc_pdu.ALTER_RESPONSE, rpc_pdu.LAST)

    def leg(self, kind, token, expected, last):
        pdu, auth = self.connection.offer(kind, token, rpc_pdu.FIRST | rpc_pdu.HEADER_SIGN | last)
        if pdu[2] != expected:
            raise Refused({rpc_pdu.BIND_NAK: "bind_nak", rpc_pdu.FAULT: "fault"}.get(pdu[2], f"PDU {pdu[2]}"))
        return self.context.step(pdu[len(pdu) - auth:]) if auth else None

    def call(self, stub=b"\x10\0\0\0"):
        connection, pad = self.connection, -len(stub) % 16
        connection.call_id += 1
        body, trailer = stub + bytes(pad), connection.trailer(pad)
        header = connection.header(rpc_pdu.REQUEST, rpc_pdu.FIRST | rpc_pdu.LAST, 8 + len(body), SEALED_TOKEN)
        header += struct.pack("<IHH", len(stub), rpc_pdu.CONTEXT, 0)
        message = IOV((IOVBufferType.header, True, None), (IOVBufferType.sign_only, False, header),
                      (IOVBufferType.data, False, body), (IOVBufferType.sign_only, False, trailer), std_layout=False)
        ext_dce.wrap_iov(self.context, message, confidential=True)
        parts = {part.type: part.value for part in message if part.type != IOVBufferType.sign_only}
        connection.socket.sendall(header + parts[IOVBufferType.data] + trailer + parts[IOVBufferType.header])
        pdu, auth = connection.receive()
        if pdu[2] != rpc_pdu.RESPONSE:
            raise Refused(f"fault {struct.unpack('<I', pdu[24:28])[0]:#x}" if pdu[2] == rpc_pdu.FAULT else f"PDU {pdu[2]}")
        at = len(pdu) - auth
        message = IOV((IOVBufferType.header, False, pdu[at:]), (IOVBufferType.sign_only, False, pdu[:24]),
                      (IOVBufferType.data, False, pdu[24:at - 8]), (IOVBufferType.sign_only, False, pdu[at - 8:at]), std_layout=False)
        if not ext_dce.unwrap_iov(self.context, message).encrypted:
            raise Refused("an answer that is not sealed")
        data = [part.value for part in message if part.type == IOVBufferType.data][0]
        return data[:len(data) - pdu[at - 6]].hex()


class Clients:
    def __init__(self, given):
        self.given, self.lock = given, threading.Lock()
        self.answers, self.calls = collections.Counter(), []

    def try_to(self, call):
        try:
            answer = call()
        except ERRORS as error:
            answer = f"{type(error).__name__}: {error}"
            time.sleep(PAUSE_SECONDS)
        with self.lock:
            self.answers[answer] += 1

    def once(self, ccache):
        client = Client(self.given, ccache)
        try:
            return client.call()
        finally:
            client.connection.close()

    def at_once(self):
        barrier = threading.Barrier(self.given.get("clients", 1))

        def one():
            barrier.wait()
            self.try_to(lambda: self.once(self.given["ccache"]))
        run([one] * barrier.parties)

    def going_on(self):
        ccache = self.given["ccache"]
        with tempfile.TemporaryDirectory() as folder:
            def held():
                clients = []

                def call():
                    if not clients:
                        clients.append(Client(self.given, ccache))
                    return clients[0].call()
                return call

            def again():
                return lambda: self.once(ccache)

            def fresh():
                own = f"{folder}/{threading.get_ident()}"
                return lambda: self.once(shutil.copy(ccache, own))
            jobs = [job for job in (held, again, fresh) for _ in range(self.given.get(job.__name__, 0))]
            started = threading.Barrier(len(jobs), pathlib.Path(self.given["started"]).touch, START_SECONDS)
            run([lambda job=job: self.until_over(job(), started) for job in jobs])

    def until_over(self, call, started):
        self.try_to(call)
        started.wait()
        calls = 1
        while not os.path.exists(self.given["until"]):
            self.try_to(call)
            calls += 1
        with self.lock:
            self.calls.append(calls)


def run(jobs):
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main():
    given = rcmp.arguments(__doc__)
    clients = Clients(given)
    clients.going_on() if "until" in given else clients.at_once()
    rcmp.finish({"answers": clients.answers, "calls": clients.calls})


if __name__ == "__main__":
    main()
