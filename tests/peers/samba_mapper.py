"""Asks an endpoint mapper for the master secret's port as a user, as Samba's hardened clients do.

    samba_mapper.py JSON        (or `-` to read it from standard input)

  host, port                    the endpoint mapper
  options                       list of binding options, such as ["connect"], ["sign"] or ["seal"], and "ntlm", "spnego" or "krb5"
  user, domain, password        for NTLM
  cache, service, realm         for Kerberos: the credential cache (set KRB5_CONFIG), the service's principal with its realm

Prints {"ports": [...], "error": null}: the ports of the towers, or what went wrong.
"""

import struct
import uuid

from samba import NTSTATUSError
from samba.credentials import DONT_USE_KERBEROS, MUST_USE_KERBEROS, SPECIFIED, Credentials
from samba.dcerpc import epmapper
from samba.param import LoadParm

import rcmp

INTERFACE = uuid.UUID("9d07ca0d-8f02-4ed5-b727-acf37fea5bbc")
NDR = uuid.UUID("8a885d04-1ceb-11c9-9fe8-08002b104860")
EPT_MAP, TOWERS = 3, 4


def floor(left, right):
    return struct.pack("<H", len(left)) + left + struct.pack("<H", len(right)) + right


def ept_map():
    """The stub of ept_map for the interface over TCP (C706, appendices L and O)."""
    floors = [floor(b"\x0d" + INTERFACE.bytes_le + b"\1\0", b"\0\0"), floor(b"\x0d" + NDR.bytes_le + b"\2\0", b"\0\0"),
              floor(b"\x0b", b"\0\0"), floor(b"\x07", b"\0\0"), floor(b"\x09", bytes(4))]
    tower = struct.pack("<H", len(floors)) + b"".join(floors)
    stub = struct.pack("<I", 1) + bytes(16) + struct.pack("<III", 2, len(tower), len(tower)) + tower
    return stub + bytes(-len(stub) % 4) + bytes(20) + struct.pack("<I", TOWERS)


def ports(answer):
    """The ports of the towers: each has a floor of TCP with two octets, the most significant first."""
    found, mark = [], struct.pack("<H", 1) + b"\x07" + struct.pack("<H", 2)
    while mark in answer:
        answer = answer[answer.index(mark) + len(mark):]
        found.append(struct.unpack(">H", answer[:2])[0])
    return found


def main():
    given = rcmp.arguments(__doc__)
    result = {"ports": [], "error": None}
    parameters = LoadParm()
    for name, value in (("workgroup", "PEERS"), ("netbios name", "PEER"), ("interfaces", "127.0.0.1/8"), ("log level", "0")):
        parameters.set(name, value)
    if "cache" in given:
        parameters.set("realm", given["realm"])
    credentials = Credentials()
    credentials.guess(parameters)
    options = given["options"]
    if "cache" in given:
        credentials.set_kerberos_state(MUST_USE_KERBEROS)
        credentials.set_named_ccache(f"FILE:{given['cache']}", SPECIFIED, parameters)
        options = [*options, f"target_principal={given['service']}"]
    else:
        credentials.set_kerberos_state(DONT_USE_KERBEROS)
        credentials.set_domain(given.get("domain", ""))
        credentials.set_username(given["user"])
        credentials.set_password(given["password"])
    binding = f"ncacn_ip_tcp:{given['host']}[{given['port']},{','.join(options)}]"
    try:
        result["ports"] = ports(epmapper.epmapper(binding, parameters, credentials).request(EPT_MAP, ept_map()))
    except (NTSTATUSError, RuntimeError) as error:
        result["error"] = list(error.args)
    rcmp.finish(result)


if __name__ == "__main__":
    main()
