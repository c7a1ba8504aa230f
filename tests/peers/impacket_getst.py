"""Impacket's getST.py, with its arguments: run it with Impacket's Python.

What that script imports for LDAP alone is not installed. And its TGS-REQs have no checksum of their body in the authenticator, without
which Samba's KDC answers KRB_AP_ERR_INAPP_CKSUM: it is added here (RFC 4120 5.5.1, 7.2.2).
"""

import pathlib
import runpy
import sys
from unittest import mock

for name in ("ldap3", "OpenSSL", "impacket.ldap", "impacket.ldap.ldap"):
    sys.modules[name] = mock.MagicMock()

from impacket.krb5 import kerberosv5
from impacket.krb5.asn1 import AP_REQ, TGS_REQ, Authenticator
from impacket.krb5.crypto import Cksumtype, _AES256CTS, make_checksum
from pyasn1.codec.der import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1.type.univ import noValue

BODY_CHECKSUM, AUTHENTICATOR = 6, 7
encrypt, send = _AES256CTS.encrypt, kerberosv5.sendReceive
# The key of the last authenticator, and what was in it.
last = {}


def remember(key, usage, plain, confounder):
    if usage == AUTHENTICATOR:
        last.update(key=key, authenticator=plain)
    return encrypt(key, usage, plain, confounder)


def contents(element):
    """What a DER element holds."""
    length = element[1]
    return element[2 if length < 0x80 else 2 + length - 0x80:]


def with_checksum(message):
    try:
        request = decoder.decode(message, asn1Spec=TGS_REQ())[0]
    except PyAsn1Error:
        return message
    authenticator = decoder.decode(last["authenticator"], asn1Spec=Authenticator())[0]
    # Around the body is the tag of its place in the request.
    body = contents(encoder.encode(request["req-body"]))
    authenticator["cksum"] = noValue
    authenticator["cksum"]["cksumtype"] = Cksumtype.SHA1_AES256
    authenticator["cksum"]["checksum"] = make_checksum(Cksumtype.SHA1_AES256, last["key"], BODY_CHECKSUM, body)
    ticket = decoder.decode(request["padata"][0]["padata-value"].asOctets(), asn1Spec=AP_REQ())[0]
    ticket["authenticator"]["cipher"] = encrypt(last["key"], AUTHENTICATOR, encoder.encode(authenticator), None)
    request["padata"][0]["padata-value"] = encoder.encode(ticket)
    return encoder.encode(request)


_AES256CTS.encrypt = remember
kerberosv5.sendReceive = lambda message, *rest: send(with_checksum(message), *rest)
runpy.run_path(str(pathlib.Path(sys.executable).parent / "getST.py"), run_name="__main__")
