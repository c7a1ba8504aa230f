"""Asks a Netlogon server as Impacket does: 4, 26, a sealed bind on a new connection, then 21 and 39.

    impacket_client.py JSON        (or `-` to read it from standard input)

  host, port                    where Netlogon listens
  domain, account, computer     CONTOSO, WEB01$, and the account without its `$`
  channel_type                  2
  secret | secret_file | nt_hash
  negotiate_flags               0x612FFFFF
  capabilities                  levels of NetrLogonGetCapabilities to ask first, [1, 2] say
  level                         "seal" (default), "sign" or "none" (no authentication at all)
  fragment                      largest stub part of a fragment
  questions                     list of objects, asked one after the other on one channel:
    certificate                 PEM file or hex of the DER; or `data`, hex of a whole LogonData
    methods | flags             of upn subject issuer chain (default upn and subject) | the number
    issuers, leaf_issuer        PEM files whose issuers' names are added; whether the leaf's own issuer goes first (true)
    extra_issuers, extra_issuer_length    made-up names behind them
    pad_to                      length of the RCMP request
    package                     the RCMP package's name
    logon_domain, logon_level, validation_level, extra_flags     `domain`, 4, 5, 0
    computer, server            the call's ComputerName and LogonServer
    inner_encryption            true

Prints {"handshake": {...}, "capabilities": [...], "answers": [...], "error": null}. An answer has status, authoritative,
extra_flags, validation (hex as it came out of the seal), data (after the inner decryption), response (RCMP, decoded), pac (as
Impacket reads it). What ends the conversation early is `error` with its step and text.
"""

import struct
import sys

from Cryptodome.Cipher import AES
from Cryptodome.Hash import MD4
from impacket.dcerpc.v5 import epm, nrpc, transport
from impacket.dcerpc.v5.dtypes import NULL
from impacket.dcerpc.v5.ndr import NDRCALL
from impacket.dcerpc.v5.rpcrt import (DCERPCException, RPC_C_AUTHN_LEVEL_NONE, RPC_C_AUTHN_LEVEL_PKT_INTEGRITY,
                                      RPC_C_AUTHN_LEVEL_PKT_PRIVACY, RPC_C_AUTHN_NETLOGON)
from impacket.krb5 import pac

import os

import rcmp

LEVELS = {"seal": RPC_C_AUTHN_LEVEL_PKT_PRIVACY, "sign": RPC_C_AUTHN_LEVEL_PKT_INTEGRITY, "none": RPC_C_AUTHN_LEVEL_NONE}
DEFAULT_FLAGS = 0x612FFFFF
TIMEOUT_SECONDS = 30


class GetCapabilitiesResponse(NDRCALL):
    """NetrLogonGetCapabilities, section 3.5.4.4.11: Impacket's own has no arm for level 2."""
    structure = (("ReturnAuthenticator", nrpc.NETLOGON_AUTHENTICATOR), ("Tag", nrpc.ULONG), ("ServerCapabilities", nrpc.ULONG),
                 ("ErrorCode", nrpc.NTSTATUS))


class Channel:
    """One secure channel: the handshake, then the connection it is used on."""

    def __init__(self, given):
        self.given = given
        self.hash = bytes.fromhex(given["nt_hash"]) if "nt_hash" in given else MD4.new(given["secret"].encode("utf-16-le")).digest()

    def connect(self):
        channel = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:{self.given['host']}[{self.given['port']}]")
        channel.set_connect_timeout(TIMEOUT_SECONDS)
        self.transport = channel
        return channel.get_dce_rpc()

    def handshake(self):
        given = self.given
        rpc = self.connect()
        rpc.connect()
        rpc.bind(nrpc.MSRPC_UUID_NRPC)
        ours = os.urandom(8)
        theirs = nrpc.hNetrServerReqChallenge(rpc, given["server"] + "\0", given["computer"] + "\0", ours)["ServerChallenge"]
        self.key = nrpc.ComputeSessionKeyAES("", ours, theirs, self.hash)
        self.credential = nrpc.ComputeNetlogonCredentialAES(ours, self.key)
        request = nrpc.NetrServerAuthenticate3()
        request["PrimaryName"], request["AccountName"] = given["server"] + "\0", given["account"] + "\0"
        request["SecureChannelType"] = given.get("channel_type", 2)
        request["ComputerName"], request["ClientCredential"] = given["computer"] + "\0", self.credential
        request["NegotiateFlags"] = given.get("negotiate_flags", DEFAULT_FLAGS)
        answer = rpc.request(request, checkError=False)
        rpc.disconnect()
        good = answer["ErrorCode"] == 0
        proof = nrpc.ComputeNetlogonCredentialAES(theirs, self.key)
        return {"status": rcmp.status(answer["ErrorCode"]), "flags": rcmp.status(answer["NegotiateFlags"]), "rid": answer["AccountRid"],
                "server_proved_itself": good and bytes(answer["ServerCredential"]) == proof}

    def bind(self):
        given = self.given
        rpc = self.connect()
        if given.get("level", "seal") != "none":
            # Impacket puts the user's name, without its last character, into NL_AUTH_MESSAGE as the computer's.
            rpc.set_credentials(given["computer"] + "$", "", given["domain"])
            rpc.set_auth_type(RPC_C_AUTHN_NETLOGON)
            rpc.set_auth_level(LEVELS[given.get("level", "seal")])
            rpc.set_aes(True)
        rpc.connect()
        if "fragment" in given:
            rpc.set_max_fragment_size(given["fragment"])
        rpc.bind(nrpc.MSRPC_UUID_NRPC)
        rpc.set_session_key(self.key)
        self.rpc = rpc

    def capabilities(self, level):
        authenticator = nrpc.ComputeNetlogonAuthenticatorAES(self.credential, self.key)
        request = nrpc.NetrLogonGetCapabilities()
        request["ServerName"], request["ComputerName"] = self.given["server"] + "\0", self.given["computer"] + "\0"
        request["Authenticator"] = authenticator
        request["ReturnAuthenticator"]["Credential"], request["ReturnAuthenticator"]["Timestamp"] = b"\0" * 8, 0
        request["QueryLevel"] = level
        self.rpc.call(request.opnum, request)
        answer = GetCapabilitiesResponse(self.rpc.recv())
        seed = int.from_bytes(self.credential[:4], "little") + authenticator["Timestamp"] + 1
        self.credential = (seed & 0xFFFFFFFF).to_bytes(4, "little") + self.credential[4:]
        expected = nrpc.ComputeNetlogonCredentialAES(self.credential, self.key)
        return {"level": level, "status": rcmp.status(answer["ErrorCode"]), "flags": rcmp.status(answer["ServerCapabilities"]),
                "authenticator_good": bytes(answer["ReturnAuthenticator"]["Credential"]) == expected}

    def ask(self, question):
        data = rcmp.question_data(question)
        if question.get("inner_encryption", True):
            data = AES.new(self.key, AES.MODE_CFB, b"\0" * 16).encrypt(data)
        request = nrpc.NetrLogonSamLogonEx()
        request["LogonServer"] = question.get("server", self.given["server"]) + "\0"
        request["ComputerName"] = question.get("computer", self.given["computer"]) + "\0"
        level = question.get("logon_level", nrpc.NETLOGON_LOGON_INFO_CLASS.NetlogonGenericInformation)
        request["LogonLevel"] = level
        request["LogonInformation"]["tag"] = level
        generic = request["LogonInformation"]["LogonGeneric"]
        generic["Identity"]["LogonDomainName"] = question.get("logon_domain", self.given["domain"])
        generic["Identity"]["ParameterControl"] = 0
        generic["Identity"]["UserName"] = ""
        generic["Identity"]["Workstation"] = ""
        generic["PackageName"] = question.get("package", rcmp.PACKAGE)
        generic["DataLength"] = len(data)
        generic["LogonData"] = data
        request["ValidationLevel"] = question.get("validation_level", nrpc.NETLOGON_VALIDATION_INFO_CLASS.NetlogonValidationGenericInfo2)
        request["ExtraFlags"] = question.get("extra_flags", 0)
        answer = self.rpc.request(request, checkError=False)
        result = {"status": rcmp.status(answer["ErrorCode"]), "authoritative": answer["Authoritative"],
                  "extra_flags": answer["ExtraFlags"], "validation": None, "request_length": len(data)}
        arm = answer["ValidationInformation"]
        if arm["tag"] == nrpc.NETLOGON_VALIDATION_INFO_CLASS.NetlogonValidationGenericInfo2:
            validation = arm["ValidationGeneric2"]
            # Impacket shows a NULL pointer as empty bytes. A structure without data is something else: package "Kerberos" answers so.
            if not isinstance(validation, bytes):
                sealed = b"".join(validation["ValidationData"])
                result["validation"] = sealed.hex()
                plain = AES.new(self.key, AES.MODE_CFB, b"\0" * 16).decrypt(sealed)
                result["data"] = plain.hex()
                result.update(decoded(plain) if plain else {})
        return result


def decoded(plain):
    try:
        response = rcmp.decode_response(plain)
    except ValueError as error:
        return {"response_error": str(error)}
    return {"response": response, "pac": read_pac(bytes.fromhex(response["pac"]))}


def read_pac(data):
    """The fields a service would use, as Impacket reads them."""
    head, buffers, found = pac.PACTYPE(data), None, {}
    buffers = head["Buffers"]
    for _ in range(head["cBuffers"]):
        info = pac.PAC_INFO_BUFFER(buffers)
        buffers = buffers[len(info):]
        body = data[info["Offset"]:info["Offset"] + info["cbBufferSize"]]
        found.setdefault("types", []).append(info["ulType"])
        if info["ulType"] == pac.PAC_LOGON_INFO:
            serialized = pac.VALIDATION_INFO()
            serialized.fromString(body)
            serialized.fromStringReferents(body[len(serialized.getData()):])
            logon = serialized["Data"]
            domain = logon["LogonDomainId"].formatCanonical()
            found["logon"] = {"user": logon["EffectiveName"], "domain": logon["LogonDomainName"], "server": logon["LogonServer"],
                              "sid": f"{domain}-{logon['UserId']}", "primary_group": logon["PrimaryGroupId"],
                              "groups": [f"{domain}-{group['RelativeId']}" for group in logon["GroupIds"]],
                              "extra": [extra["Sid"].formatCanonical() for extra in logon["ExtraSids"]] if logon["SidCount"] else []}
            if logon["ResourceGroupCount"]:
                local = logon["ResourceGroupDomainSid"].formatCanonical()
                found["logon"]["resource"] = [f"{local}-{group['RelativeId']}" for group in logon["ResourceGroupIds"]]
        elif info["ulType"] == pac.PAC_CLIENT_INFO_TYPE:
            client = pac.PAC_CLIENT_INFO(body)
            found["client"] = {"id": int.from_bytes(body[:8], "little"), "name": client["Name"].decode("utf-16-le")}
        elif info["ulType"] == pac.PAC_REQUESTOR_INFO:
            found["requestor"] = pac.PAC_REQUESTOR(body)["UserSid"].formatCanonical()
    return found


def main():
    given = rcmp.arguments(__doc__)
    result = {"handshake": None, "capabilities": [], "answers": [], "error": None}
    step = "handshake"
    try:
        channel = Channel(given)
        result["handshake"] = channel.handshake()
        # There is no session key to bind with otherwise.
        if result["handshake"]["status"] == "0x00000000":
            step = "bind"
            channel.bind()
            for level in given.get("capabilities", []):
                step = f"capabilities {level}"
                result["capabilities"].append(channel.capabilities(level))
            for number, question in enumerate(given.get("questions", [])):
                step = f"question {number}"
                result["answers"].append(channel.ask(question))
            channel.rpc.disconnect()
    except (DCERPCException, OSError, EOFError) as error:
        result["error"] = {"step": step, "text": str(error), "code": getattr(error, "error_code", None)}
    except struct.error as error:
        # Impacket takes a connection that was closed for an empty answer.
        if "b''" not in str(error):
            raise
        result["error"] = {"step": step, "text": "connection closed", "code": None}
    rcmp.finish(result)


if __name__ == "__main__":
    main()
