#!/usr/bin/env python3
"""A domain controller that tells its time by LDAP, and nothing else: AHEAD seconds more than ours.

It answers one searchRequest for each connection, on port 389 of all addresses. Impacket reads and writes the
messages.
"""

import socket
import sys
import time

from impacket.ldap.ldapasn1 import LDAPMessage, SearchRequest, SearchResultDone, SearchResultEntry
from pyasn1.codec.ber import decoder, encoder


def message(number, op):
    made = LDAPMessage()
    made["messageID"] = number
    made["protocolOp"].setComponentByType(op.tagSet, op, verifyConstraints=False, matchTags=False)
    return encoder.encode(made)


def answer(question, ahead):
    asked, _ = decoder.decode(question, asn1Spec=LDAPMessage())
    search = asked["protocolOp"]["searchRequest"]
    assert isinstance(search, SearchRequest), asked.prettyPrint()
    assert str(search["baseObject"]) == "" and int(search["scope"]) == 0, search.prettyPrint()
    assert str(search["filter"]["present"]) == "objectClass", search.prettyPrint()
    assert [str(name) for name in search["attributes"]] == ["currentTime"], search.prettyPrint()
    entry = SearchResultEntry()
    entry["objectName"] = ""
    entry["attributes"][0]["type"] = "currentTime"
    entry["attributes"][0]["vals"][0] = time.strftime("%Y%m%d%H%M%S.0Z", time.gmtime(time.time() + ahead))
    done = SearchResultDone()
    done["resultCode"], done["matchedDN"], done["diagnosticMessage"] = 0, "", ""
    number = asked["messageID"]
    return message(number, entry) + message(number, done)


def main():
    with socket.create_server(("", 389)) as server:
        while True:
            with server.accept()[0] as client:
                if question := client.recv(4096):
                    client.sendall(answer(question, int(sys.argv[1])))


main()
