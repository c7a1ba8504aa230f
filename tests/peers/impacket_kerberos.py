#!/usr/bin/env python3
"""Impacket's end of a Kerberos context inside of SPNEGO, as its RPC client uses it: run it with Impacket's Python.

Reads one command a line and answers with one line of JSON, until its input ends. Bytes are hexadecimal.

  initiate USER REALM TGS_REP ETYPE KEY   the first token, from a KDC's reply and the session key that was in it
  step TOKEN                              takes the acceptor's token, gives the last one
  seal NUMBER BODY                        gives body and token
  unseal BODY TOKEN                       gives the body
  sign NUMBER DATA                        a MIC token
"""

import json
import sys

from impacket.krb5 import crypto, gssapi, kerberosv5

# Impacket looks at the token behind a security trailer, whose contents do not count.
SEC_TRAILER = bytes(8)


class Peer:
    def initiate(self, user, realm, reply, etype, key):
        number = int(etype)
        session_key = crypto.Key(number, bytes.fromhex(key))
        service = {"KDC_REP": bytes.fromhex(reply), "cipher": crypto._enctype_table[number], "sessionKey": session_key}
        self.cipher, self.key, token = kerberosv5.getKerberosType1(user, "", realm, "", "", TGS=service, useCache=False)
        return {"token": token.hex()}

    def step(self, token):
        self.cipher, self.key, token = kerberosv5.getKerberosType3(self.cipher, self.key, bytes.fromhex(token))
        self.context = gssapi.GSSAPI(self.cipher)
        return {"token": token.hex()}

    def seal(self, number, body):
        body, token = self.context.GSS_Wrap(self.key, bytes.fromhex(body), int(number))
        return {"body": body.hex(), "token": token.hex()}

    def unseal(self, body, token):
        body, _ = self.context.GSS_Unwrap(self.key, bytes.fromhex(body), 0, authData=SEC_TRAILER + bytes.fromhex(token))
        return {"body": body.hex()}

    def sign(self, number, data):
        return {"token": self.context.GSS_GetMIC(self.key, bytes.fromhex(data), int(number)).hex()}


def main():
    peer = Peer()
    for line in sys.stdin:
        command, *arguments = line.split()
        try:
            answer = getattr(peer, command)(*arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
