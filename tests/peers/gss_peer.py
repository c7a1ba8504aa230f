#!/usr/bin/env python3
"""One end of a Kerberos context in DCE style, by MIT Kerberos through python3-gssapi.

Reads one command a line and answers with one line of JSON, until its input ends. Bytes are hexadecimal. The credential cache
and the keytab come from KRB5CCNAME and KRB5_KTNAME.

  initiate MECHANISM SERVICE   start a context for a principal by `kerberos` or `spnego`, and give the first token
  accept             start a context as a service
  step TOKEN         take a token, give the next one
  seal SIGNED BODY SIGNED      wrap a body between two pieces that are signed only; gives body and token
  unseal SIGNED BODY SIGNED TOKEN   the reverse; gives the body
  sign DATA          a MIC token
  verify DATA TOKEN  check one
"""

import json
import sys

import gssapi
from gssapi.raw import ext_dce
from gssapi.raw.ext_dce import IOV, IOVBufferType

MECHANISMS = {"kerberos": gssapi.MechType.kerberos, "spnego": gssapi.OID.from_int_seq("1.3.6.1.5.5.2")}
Flag = gssapi.RequirementFlag
FLAGS = (Flag.dce_style | Flag.mutual_authentication | Flag.replay_detection | Flag.out_of_sequence_detection
         | Flag.confidentiality | Flag.integrity)


def iov(signed, body, trailer, token):
    """The header, the body and the trailer of a fragment. Empty pieces are left out, as RPC does without header signing."""
    pieces = [(IOVBufferType.header, token is None, token)]
    pieces += [(IOVBufferType.sign_only, False, signed)] if signed else []
    pieces += [(IOVBufferType.data, False, body)]
    pieces += [(IOVBufferType.sign_only, False, trailer)] if trailer else []
    return IOV(*pieces, std_layout=False)


class Peer:
    def initiate(self, mechanism, service):
        name = gssapi.Name(service, name_type=gssapi.NameType.kerberos_principal)
        self.context = gssapi.SecurityContext(name=name, mech=MECHANISMS[mechanism], flags=FLAGS, usage="initiate")
        return self.step()

    def accept(self):
        self.context = gssapi.SecurityContext(creds=gssapi.Credentials(usage="accept"), usage="accept")
        return {}

    def step(self, token=None):
        answer = self.context.step(bytes.fromhex(token) if token else None)
        done = self.context.complete
        client = str(self.context.initiator_name) if done else None
        return {"token": (answer or b"").hex(), "complete": done, "client": client}

    def seal(self, signed, body, trailer):
        message = iov(bytes.fromhex(signed), bytes.fromhex(body), bytes.fromhex(trailer), None)
        ext_dce.wrap_iov(self.context, message, confidential=True)
        parts = {part.type: part.value for part in message if part.type != IOVBufferType.sign_only}
        return {"body": parts[IOVBufferType.data].hex(), "token": parts[IOVBufferType.header].hex()}

    def unseal(self, signed, body, trailer, token):
        message = iov(*map(bytes.fromhex, (signed, body, trailer, token)))
        result = ext_dce.unwrap_iov(self.context, message)
        data = [part.value for part in message if part.type == IOVBufferType.data]
        return {"body": data[0].hex(), "sealed": result.encrypted}

    def sign(self, data):
        return {"token": self.context.get_signature(bytes.fromhex(data)).hex()}

    def verify(self, data, token):
        self.context.verify_signature(bytes.fromhex(data), bytes.fromhex(token))
        return {}


def main():
    peer = Peer()
    for line in sys.stdin:
        # An argument without bytes is written as a dash.
        command, *arguments = line.split()
        try:
            answer = getattr(peer, command)(*("" if argument == "-" else argument for argument in arguments))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
