"""Shows changed tickets to the master secret server, as attackers and broken clients do: by Impacket's ASN.1 and cryptography.

    sso_tickets.py JSON        (or `-` to read it from standard input)

  host, port                    where the interface is
  ccache, service               a credential cache, and the service (without its realm) whose ticket in it is shown
  keytab                        the service's keytab, with which the ticket is opened and sealed again
  attempts                      list of objects, one bind each. What is said there is changed:
    service, realm              names beside the ticket, which no key protects
    kvno                        version of the service's key
    etype                       the ticket is sealed with a key of this type that the service does not have
    session_etype               type of the session key
    crealm                      realm of the client
    drop_flags                  list of numbers of ticket flags that are cleared
    pac                         "none", or "damaged": another name of the client
    length                      the ticket gets authorization data of an unknown type until it has about so many octets
    skew                        seconds by which the client's clock is ahead
    gss_flags                   of the authenticator's checksum
    earlier                     number of an attempt: the authenticator is its
    port                        another port
    copies                      so many binds at once, whose authenticators have one time
    cache                       a file: the ticket is written there, and nothing is sent

Prints {"answers": [...]}, one for each attempt: "bind_ack", or the PDU in hex, or how the connection ended. With `copies`: a list.
"""

import datetime
import os
import threading

from impacket.krb5 import constants, types
from impacket.krb5.asn1 import AD_IF_RELEVANT, AP_REQ, Authenticator, EncTicketPart, Ticket, seq_set
from impacket.krb5.ccache import CCache
from impacket.krb5.crypto import Key, _enctype_table
from impacket.krb5.gssapi import (GSS_C_CONF_FLAG, GSS_C_DCE_STYLE, GSS_C_INTEG_FLAG, GSS_C_MUTUAL_FLAG, GSS_C_REPLAY_FLAG,
                                  GSS_C_SEQUENCE_FLAG, CheckSumField)
from impacket.krb5.keytab import Keytab
from pyasn1.codec.der import decoder, encoder
from pyasn1.type.univ import noValue

import rcmp
import rpc_pdu

FLAGS = (GSS_C_CONF_FLAG | GSS_C_INTEG_FLAG | GSS_C_SEQUENCE_FLAG | GSS_C_REPLAY_FLAG | GSS_C_MUTUAL_FLAG | GSS_C_DCE_STYLE)
TICKET, AUTHENTICATOR = 2, 11
KEY_LENGTHS = {17: 16, 18: 32, 23: 16}
AD_IF_RELEVANT_TYPE, UNKNOWN_TYPE = 1, 0x7000


def open_ticket(keytab, ticket):
    sealed = ticket["enc-part"]
    cipher = _enctype_table[int(sealed["etype"])]
    for entry in Keytab.loadFile(keytab).entries:
        block = entry.main_part["keyblock"]
        if block["keytype"] != int(sealed["etype"]):
            continue
        key = Key(cipher.enctype, block["keyvalue"]["data"])
        try:
            return key, decoder.decode(cipher.decrypt(key, TICKET, sealed["cipher"].asOctets()), asn1Spec=EncTicketPart())[0]
        except ValueError:
            continue
    raise SystemExit("no key of the keytab opens the ticket")


def random_key(etype):
    return Key(etype, os.urandom(KEY_LENGTHS[etype]))


class Attempt:
    def __init__(self, given, change):
        credential = CCache.loadFile(given["ccache"]).getCredential(given["service"], anySPN=False)
        self.change, self.credential = change, credential
        self.session_key = Key(credential["key"]["keytype"], credential["key"]["keyvalue"])
        self.ticket = decoder.decode(credential.ticket["data"], asn1Spec=Ticket())[0]
        key, part = open_ticket(given["keytab"], self.ticket)
        self.change_part(part)
        self.client, self.crealm = part["cname"], str(part["crealm"])
        if "etype" in change:
            key = random_key(change["etype"])
        sealed = self.ticket["enc-part"]
        sealed["etype"] = key.enctype
        if "kvno" in change:
            sealed["kvno"] = change["kvno"]
        sealed["cipher"] = _enctype_table[key.enctype].encrypt(key, TICKET, encoder.encode(part), None)
        if "service" in change:
            self.ticket["sname"]["name-string"].clear()
            for at, component in enumerate(change["service"].split("/")):
                self.ticket["sname"]["name-string"][at] = component
        if "realm" in change:
            self.ticket["realm"] = change["realm"]

    def change_part(self, part):
        change = self.change
        if "session_etype" in change:
            self.session_key = random_key(change["session_etype"])
            part["key"]["keytype"], part["key"]["keyvalue"] = self.session_key.enctype, self.session_key.contents
        if "crealm" in change:
            part["crealm"] = change["crealm"]
        if "drop_flags" in change:
            kept = [at for at, bit in enumerate(part["flags"]) if bit and at not in change["drop_flags"]]
            part["flags"] = constants.encodeFlags(kept)
        data = part["authorization-data"]
        if change.get("pac") == "none":
            part["authorization-data"] = noValue
        if change.get("pac") == "damaged":
            # The KDC's signatures are nothing that a service can check, so it is the name of the client.
            name = str(part["cname"]["name-string"][0]).encode("utf-16-le")
            for element in data:
                whole = bytearray(element["ad-data"].asOctets())
                at = whole.find(name)
                if at >= 0:
                    whole[at] ^= 1
                element["ad-data"] = bytes(whole)
        if "length" in change:
            padding = AD_IF_RELEVANT()
            padding[0] = noValue
            padding[0]["ad-type"], padding[0]["ad-data"] = UNKNOWN_TYPE, bytes(change["length"] - len(self.credential.ticket["data"]))
            at = len(data)
            data[at] = noValue
            data[at]["ad-type"], data[at]["ad-data"] = AD_IF_RELEVANT_TYPE, encoder.encode(padding)

    def authenticator(self, now):
        authenticator = Authenticator()
        authenticator["authenticator-vno"] = 5
        authenticator["crealm"] = self.crealm
        client = types.Principal("/".join(map(str, self.client["name-string"])), type=int(self.client["name-type"]))
        seq_set(authenticator, "cname", client.components_to_asn1)
        authenticator["cusec"], authenticator["ctime"] = now.microsecond, types.KerberosTime.to_asn1(now)
        checksum = CheckSumField()
        checksum["Lgth"], checksum["Flags"] = 16, self.change.get("gss_flags", FLAGS)
        authenticator["cksum"] = noValue
        authenticator["cksum"]["cksumtype"], authenticator["cksum"]["checksum"] = 0x8003, checksum.getData()
        authenticator["seq-number"] = 0
        cipher = _enctype_table[self.session_key.enctype]
        return cipher.encrypt(self.session_key, AUTHENTICATOR, encoder.encode(authenticator), None)

    def token(self, sealed_authenticator):
        request = AP_REQ()
        request["pvno"], request["msg-type"] = 5, int(constants.ApplicationTagNumbers.AP_REQ.value)
        request["ap-options"] = constants.encodeFlags([constants.APOptions.mutual_required.value])
        ticket = types.Ticket()
        ticket.from_asn1(self.ticket)
        seq_set(request, "ticket", ticket.to_asn1)
        request["authenticator"] = noValue
        request["authenticator"]["etype"], request["authenticator"]["cipher"] = self.session_key.enctype, sealed_authenticator
        return encoder.encode(request)

    def write(self, path):
        cache = CCache.loadFile(path) if os.path.exists(path) else CCache()
        credential = self.credential
        credential["key"]["keytype"], credential["key"]["keyvalue"] = self.session_key.enctype, self.session_key.contents
        credential["key"]["keylen"] = len(self.session_key.contents)
        credential["client"].realm["data"], credential["client"].realm["length"] = self.crealm.encode(), len(self.crealm)
        credential.ticket["data"] = encoder.encode(self.ticket)
        credential.ticket["length"] = len(credential.ticket["data"])
        cache.setDefaultHeader()
        cache.principal, cache.credentials = credential["client"], [credential]
        cache.saveFile(path)


def show(given, port, token):
    connection = rpc_pdu.Connection(given["host"], port, rpc_pdu.KERBEROS)
    try:
        pdu, _ = connection.offer(rpc_pdu.BIND, token)
        return "bind_ack" if pdu[2] == rpc_pdu.BIND_ACK else pdu.hex()
    except (OSError, rpc_pdu.Refused) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def at_once(given, tokens):
    answers, barrier = [None] * len(tokens), threading.Barrier(len(tokens))

    def one(at):
        barrier.wait()
        answers[at] = show(given, given["port"], tokens[at])
    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(tokens))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def main():
    given = rcmp.arguments(__doc__)
    answers, authenticators = [], []
    for change in given["attempts"]:
        attempt = Attempt(given, change)
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=change.get("skew", 0))
        sealed = authenticators[change["earlier"]] if "earlier" in change else attempt.authenticator(now)
        authenticators.append(sealed)
        if "cache" in change:
            attempt.write(change["cache"])
            answers.append(None)
        elif "copies" in change:
            answers.append(at_once(given, [attempt.token(attempt.authenticator(now)) for _ in range(change["copies"])]))
        else:
            answers.append(show(given, change.get("port", given["port"]), attempt.token(sealed)))
    rcmp.finish({"answers": answers})


if __name__ == "__main__":
    main()
