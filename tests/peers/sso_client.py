"""Gets the master secret as Impacket does.

    sso_client.py JSON        (or `-` to read it from standard input)

  host                          where the server is
  port | mapper                 the port of the interface, or that of the endpoint mapper that is asked for it
  user, domain, password | nt_hash
  auth                          "ntlm" (default), "spnego", "kerberos" or "none"
  level                         1 to 6 (6: packet privacy)
  ndr64                         bind with NDR64 alone (false)
  calls                         list of objects, made one after the other on one connection:
    opnum                       0
    stub                        hex (default 10000000)
    wait                        a file that has to be there before the call is made
  workstation                   sent in AUTHENTICATE
  ccache                        for SPNEGO: a credential cache with the ticket of the service
  service                       whose ticket that is, without its realm (default: host/ and the address)
  tamper                        index of an octet of the first sealed request that is changed on its way
  replay                        send the first sealed request twice

Prints {"port": .., "answers": [...], "error": null}. An answer is {"stub": hex} or {"fault": number}. What ends the conversation is
`error`, as text.
"""

import os
import time

from impacket.dcerpc.v5 import epm, rpcrt, transport
from impacket.dcerpc.v5.rpcrt import DCERPCException
from impacket.krb5.ccache import CCache
from impacket.uuid import uuidtup_to_bin

import rcmp

INTERFACE = ("9d07ca0d-8f02-4ed5-b727-acf37fea5bbc", "1.0")
NDR64 = ("71710533-beba-4937-8319-b5dbef9ccc36", "1.0")
TYPES = {
    "ntlm": rpcrt.RPC_C_AUTHN_WINNT,
    "spnego": rpcrt.RPC_C_AUTHN_GSS_NEGOTIATE,
    "kerberos": rpcrt.RPC_C_AUTHN_GSS_KERBEROS,
}
TIMEOUT_SECONDS = 30


def await_file(path):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def fault_of(error):
    """The number of a fault, which Impacket keeps in the text of its exception."""
    code = error.get_error_code()
    if code is not None:
        return code
    text = str(error)
    for number, name in rpcrt.rpc_status_codes.items():
        if name in text:
            return number
    if "rpc_x_bad_stub_data" in text:
        return 0x6F7
    raise error


def answer(rpc, call):
    if "wait" in call:
        await_file(call["wait"])
    try:
        rpc.call(call.get("opnum", 0), bytes.fromhex(call.get("stub", "10000000")))
        return {"stub": rpc.recv().hex()}
    except DCERPCException as error:
        return {"fault": fault_of(error)}


class Altered:
    """A socket that changes or repeats the first large enough request."""

    def __init__(self, inner, given):
        self.inner, self.given, self.done = inner, given, False

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def send(self, data, *rest):
        return self.sendall(data, *rest) or len(data)

    def sendall(self, data, *rest):
        is_request = len(data) > 24 and data[2] == 0
        if is_request and not self.done:
            self.done = True
            if "tamper" in self.given:
                at = self.given["tamper"]
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
            if self.given.get("replay"):
                self.inner.sendall(data)
        return self.inner.sendall(data, *rest)


def main():
    given = rcmp.arguments(__doc__)
    result = {"port": given.get("port"), "answers": [], "error": None}
    try:
        if "mapper" in given:
            binding = epm.hept_map(given["host"], uuidtup_to_bin(INTERFACE), protocol="ncacn_ip_tcp",
                                   dce=mapper(given))
            result["port"] = int(binding.rsplit("[", 1)[1].rstrip("]"))
        channel = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:{given['host']}[{result['port']}]")
        channel.set_connect_timeout(TIMEOUT_SECONDS)
        auth = given.get("auth", "ntlm")
        if auth != "none":
            hashes = given.get("nt_hash", "")
            ticket = None
            if "service" in given:
                ticket = CCache.loadFile(given["ccache"]).getCredential(given["service"], anySPN=False).toTGS()
            channel.set_credentials(given["user"], given.get("password", ""), given.get("domain", ""), "", hashes, TGS=ticket)
            if auth in ("kerberos", "spnego"):
                # Impacket speaks Kerberos alone under SPNEGO.
                os.environ["KRB5CCNAME"] = given["ccache"]
                channel.set_kerberos(True)
        rpc = channel.get_dce_rpc()
        if auth != "none":
            rpc.set_auth_type(TYPES[auth])
            rpc.set_auth_level(given.get("level", 6))
        rpc.connect()
        if "tamper" in given or "replay" in given:
            channel._TCPTransport__socket = Altered(channel.get_socket(), given)
        syntax = NDR64 if given.get("ndr64") else ("8a885d04-1ceb-11c9-9fe8-08002b104860", "2.0")
        rpc.bind(uuidtup_to_bin(INTERFACE), transfer_syntax=syntax)
        for call in given.get("calls", [{}]):
            result["answers"].append(answer(rpc, call))
        rpc.disconnect()
    except Exception as error:  # Impacket raises bare exceptions where a connection ends.
        result["error"] = f"{type(error).__name__}: {error}"
    rcmp.finish(result)


def mapper(given):
    channel = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:{given['host']}[{given['mapper']}]")
    channel.set_connect_timeout(TIMEOUT_SECONDS)
    rpc = channel.get_dce_rpc()
    rpc.connect()
    return rpc


if __name__ == "__main__":
    main()
