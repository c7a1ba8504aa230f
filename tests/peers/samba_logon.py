"""The reply of a domain controller to a network logon, by Impacket: opnum 39 with NTLMv2.

    samba_logon.py JSON        (or `-` to read it from standard input)

As impacket_client.py; beside it `user` and `password`. Prints {"status": ..., "sids": [...]}: the user's groups and extra SIDs.
"""

import hashlib
import hmac
import os
import struct
import time

from Cryptodome.Hash import MD4
from impacket.dcerpc.v5 import nrpc

import rcmp
from impacket_client import Channel


def ntlmv2(user, domain, password, challenge):
    """[MS-NLMP] 3.3.2, without a target."""
    def md5(key, data):
        return hmac.new(key, data, hashlib.md5).digest()

    key = md5(MD4.new(password.encode("utf-16-le")).digest(), (user.upper() + domain).encode("utf-16-le"))
    now = int((time.time() + 11644473600) * 10_000_000)
    blob = b"\x01\x01" + bytes(6) + struct.pack("<Q", now) + os.urandom(8) + bytes(4) + bytes(4) + bytes(4)
    return md5(key, challenge + blob) + blob


def main():
    given = rcmp.arguments(__doc__)
    channel = Channel(given)
    channel.handshake()
    channel.bind()
    challenge = os.urandom(8)
    request = nrpc.NetrLogonSamLogonEx()
    request["LogonServer"], request["ComputerName"] = given["server"] + "\0", given["computer"] + "\0"
    level = nrpc.NETLOGON_LOGON_INFO_CLASS.NetlogonNetworkInformation
    request["LogonLevel"] = level
    request["LogonInformation"]["tag"] = level
    network = request["LogonInformation"]["LogonNetwork"]
    network["Identity"]["LogonDomainName"] = given["domain"]
    network["Identity"]["ParameterControl"] = 0
    network["Identity"]["UserName"] = given["user"]
    network["Identity"]["Workstation"] = ""
    network["LmChallenge"] = challenge
    network["NtChallengeResponse"] = ntlmv2(given["user"], given["domain"], given["password"], challenge)
    network["LmChallengeResponse"] = b""
    request["ValidationLevel"] = nrpc.NETLOGON_VALIDATION_INFO_CLASS.NetlogonValidationSamInfo4
    request["ExtraFlags"] = 0
    answer = channel.rpc.request(request, checkError=False)
    result = {"status": rcmp.status(answer["ErrorCode"]), "sids": []}
    if answer["ErrorCode"] == 0:
        logon = answer["ValidationInformation"]["ValidationSam4"]
        domain = logon["LogonDomainId"].formatCanonical()
        result["sids"] += [f"{domain}-{group['RelativeId']}" for group in logon["GroupIds"]]
        if logon["SidCount"]:
            result["sids"] += [extra["Sid"].formatCanonical() for extra in logon["ExtraSids"]]
    rcmp.finish(result)


main()
