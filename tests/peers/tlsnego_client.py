#!/usr/bin/env python3
"""A TLSNEGO client that shares no code with ours: TLS by OpenSSL, canonicalisation by lxml, AES and HMAC by `cryptography` and Python.

It reads a JSON object, in one line, from standard input and writes one JSON object a line, one for each step:

  {"url": where to post, "to": a:To, "server": DER of the service's certificate in hexadecimal,
   "ca": DER of the CA that issued it, if it is not self-signed,
   "user": name, "password": password, "certificate": PEM file, "key": PEM file, "version": of TLS, "TLSv1.2" unless it is given,
   "binding": "session" (RST/SCT, then calls) or "call" (calls under the negotiated token), "calls": how many,
   "cancel": false to leave the session open,
   "renew": true to renew the session after these calls, and to call once more,
   "negotiate": false to encrypt a key to the service's certificate instead,
   "trust": "1.3" for WS-Trust and WS-SecureConversation 1.3,
   "inside": {name of an element: XML}, put into the middle of the text of Username, DigestValue or BinaryExchange,
   "commands": true to go on, after the calls, with the commands on further lines of standard input:

     {"do": "call", "renew", "cancel", "replay" (the message before this one, octet by octet), or "token" (shows the token),
      "url": where to post this and what follows,
      "offset": seconds by which the clock is wrong, for this command,
      "spoil": true to change an octet of what is encrypted, for this command,
      "body": what a call has as its body, encrypted octet by octet as it is here,
      "cookie", "identifier", "instance": what the token in the messages has instead; null removes it}}

A negotiation whose authenticator does not match ends it with {"step": "negotiate", "error": "authenticator"}.
"""
import base64
import copy
import datetime
import hashlib
import hmac
import http.client
import json
import os
import ssl
import sys
import urllib.parse
import uuid

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from lxml import etree

from tlsnego_openssl import combined_hash, p_sha1

S = "http://www.w3.org/2003/05/soap-envelope"
A = "http://www.w3.org/2005/08/addressing"
SETTINGS = json.loads(sys.stdin.readline())
IS_13 = SETTINGS.get("trust") == "1.3"
T = "http://docs.oasis-open.org/ws-sx/ws-trust/200512" if IS_13 else "http://schemas.xmlsoap.org/ws/2005/02/trust"
C = "http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512" if IS_13 else "http://schemas.xmlsoap.org/ws/2005/02/sc"
O = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
U = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
E = "http://www.w3.org/2001/04/xmlenc#"
D = "http://www.w3.org/2000/09/xmldsig#"
DNSE = "http://schemas.microsoft.com/ws/2006/05/security"
K = "http://docs.oasis-open.org/wss/oasis-wss-wssecurity-secext-1.1.xsd"
NS = {"k": K, "s": S, "a": A, "t": T, "c": C, "o": O, "u": U, "e": E, "d": D}
VALUE_TYPE = ("" if IS_13 else " ") + "http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego"
# The last response of WS-Trust 1.3 stands in a collection.
RESPONSE = "t:RequestSecurityTokenResponseCollection/t:RequestSecurityTokenResponse" if IS_13 else "t:RequestSecurityTokenResponse"
ENCODING = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary"
TLS_WRAP = "http://schemas.xmlsoap.org/2005/02/trust/tlsnego#TLS_Wrap"
SCT = f"{C}/sct"
DK = f"{C}/dk"
ENCRYPTED_KEY = "http://docs.oasis-open.org/wss/oasis-wss-soap-message-security-1.1#EncryptedKey"
THUMBPRINT = "http://docs.oasis-open.org/wss/oasis-wss-soap-message-security-1.1#ThumbprintSHA1"
X509_V3 = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3"
LABEL = b"WS-SecureConversation" * 2
EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
ANONYMOUS = "http://www.w3.org/2005/08/addressing/anonymous"
PARSER = etree.XMLParser(resolve_entities=False, no_network=True)


class Refused(Exception):
    """An unsecured fault, or a reply that is not what it has to be."""


def b64(octets):
    return base64.b64encode(octets).decode()


def c14n(element):
    return etree.tostring(element, method="c14n", exclusive=True, with_comments=False)


def within(name, text):
    """The text of an element, with what the settings put inside."""
    half = len(text) // 2
    return text[:half] + SETTINGS.get("inside", {}).get(name, "") + text[half:]


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def encrypt(key, octets):
    padding = 16 - len(octets) % 16
    octets += os.urandom(padding - 1) + bytes([padding])
    vector = os.urandom(16)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    return vector + encryptor.update(octets) + encryptor.finalize()


def decrypt(key, octets):
    decryptor = Cipher(algorithms.AES(key), modes.CBC(octets[:16])).decryptor()
    octets = decryptor.update(octets[16:]) + decryptor.finalize()
    return octets[: -octets[-1]]


def envelope(action, message_id, to, security, body):
    header = (
        f'<a:Action s:mustUnderstand="1" u:Id="h1">{action}</a:Action><a:MessageID u:Id="h2">{message_id}</a:MessageID>'
        f'<a:ReplyTo u:Id="h3"><a:Address>{ANONYMOUS}</a:Address></a:ReplyTo>'
        f'<a:To s:mustUnderstand="1" u:Id="h4">{escape(to)}</a:To>'
    )
    return (
        f'<s:Envelope xmlns:s="{S}" xmlns:a="{A}" xmlns:u="{U}"><s:Header>{header}{security}</s:Header>'
        f'<s:Body u:Id="body">{body}</s:Body></s:Envelope>'
    )


class Token:
    def __init__(self, element, key):
        self.element, self.key = element, key
        self.name = element.findtext("c:Identifier", namespaces=NS)
        self.id = element.get(f"{{{U}}}Id")


    value_type = SCT

    def write(self):
        return etree.tostring(self.element).decode()

    def is_named_by(self, reference):
        """Whether the SecurityTokenReference of a reply names this token."""
        node = reference.find("o:Reference", NS)
        return node is not None and (node.get("URI"), node.get("ValueType")) == (self.name, SCT)


class FreshKey:
    """A key for one message, encrypted to the certificate of the service."""

    value_type, id = ENCRYPTED_KEY, "key"

    def __init__(self, der):
        self.der, self.key = der, os.urandom(32)
        oaep = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        self.wrapped = x509.load_der_x509_certificate(der).public_key().encrypt(self.key, oaep)

    def write(self):
        return (
            f'<e:EncryptedKey Id="{self.id}" xmlns:e="{E}"><e:EncryptionMethod Algorithm="{E}rsa-oaep-mgf1p"><DigestMethod xmlns="{D}" Algorithm="{D}sha1"/>'
            f'</e:EncryptionMethod><KeyInfo xmlns="{D}"><o:SecurityTokenReference><o:KeyIdentifier ValueType="{THUMBPRINT}">{b64(hashlib.sha1(self.der).digest())}'
            f"</o:KeyIdentifier></o:SecurityTokenReference></KeyInfo><e:CipherData><e:CipherValue>{b64(self.wrapped)}</e:CipherValue></e:CipherData></e:EncryptedKey>"
        )

    def is_named_by(self, reference):
        node = reference.find("o:KeyIdentifier", NS)
        expected = (f"{ENCRYPTED_KEY}SHA1", b64(hashlib.sha1(self.wrapped).digest()))
        return node is not None and (node.get("ValueType"), node.text) == expected


class Client:
    def __init__(self, settings):
        self.settings = settings
        self.offset, self.is_spoilt, self.raw = 0, False, None
        self.connect(settings["url"])

    def connect(self, url):
        url = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        self.path = url.path or "/"

    def post(self, message):
        headers = {"Content-Type": "application/soap+xml; charset=utf-8"}
        self.connection.request("POST", self.path, message.encode(), headers)
        response = self.connection.getresponse()
        root = etree.fromstring(response.read(), PARSER)
        fault = root.find("s:Body/s:Fault", NS)
        if fault is not None:
            values = fault.findall(".//s:Value", NS)
            prefix, local = values[-1].text.split(":")
            raise Refused(f"{{{values[-1].nsmap[prefix]}}}{local} {response.status} {root.findtext('s:Header/a:Action', namespaces=NS)}")
        if response.status != 200:
            raise Refused(f"status {response.status}")
        return root

    def leg(self, action, element):
        """Posts one trust element; returns that of the answer."""
        message_id = f"urn:uuid:{uuid.uuid4()}"
        message = envelope(action, message_id, self.settings["to"], "", element)
        sent = etree.fromstring(message.encode(), PARSER).find("s:Body", NS)[0]
        self.legs.append(c14n(sent))
        root = self.post(message)
        action = root.findtext("s:Header/a:Action", namespaces=NS)
        is_last = root.find("s:Body/t:RequestSecurityTokenResponseCollection", NS) is not None
        if action != f"{T}/{'RSTRC/IssueFinal' if IS_13 and is_last else 'RSTR/Issue'}":
            raise Refused("action")
        if root.findtext("s:Header/a:RelatesTo", namespaces=NS) != message_id:
            raise Refused("RelatesTo")
        [answer] = root.find("s:Body", NS)
        return answer

    def negotiate(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=bytes.fromhex(self.settings.get("ca", self.settings["server"])))
        version = self.settings.get("version", "TLSv1.2").replace(".", "_")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        if context.maximum_version < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("DEFAULT@SECLEVEL=0")
        if self.settings.get("certificate"):
            context.load_cert_chain(self.settings["certificate"], self.settings["key"])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        name = f"uuid-{uuid.uuid4()}-1"
        self.legs = []

        def flight():
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            octets = outgoing.read()
            return (
                f'<t:BinaryExchange ValueType="{VALUE_TYPE}" EncodingType="{ENCODING}">{within("BinaryExchange", b64(octets))}</t:BinaryExchange>'
            )

        def exchange(response):
            node = response.find("t:BinaryExchange", NS)
            if node is not None:
                if node.get("ValueType") != VALUE_TYPE:
                    raise Refused("ValueType")
                incoming.write(base64.b64decode(node.text))

        request = (
            f'<t:RequestSecurityToken Context="{name}" xmlns:t="{T}"><t:TokenType>{SCT}</t:TokenType>'
            f"<t:RequestType>{T}/Issue</t:RequestType><t:KeySize>256</t:KeySize>{flight()}</t:RequestSecurityToken>"
        )
        answer = self.leg(f"{T}/RST/Issue", request)
        while answer.tag == f"{{{T}}}RequestSecurityTokenResponse":
            self.legs.append(c14n(answer))
            exchange(answer)
            response = f'<t:RequestSecurityTokenResponse Context="{name}" xmlns:t="{T}">{flight()}</t:RequestSecurityTokenResponse>'
            answer = self.leg(f"{T}/RSTR/Issue", response)
        first, second = answer
        if first.get("Context") != name or second.get("Context") != name or len(second) != 1:
            raise Refused("responses")
        exchange(first)
        flight()
        if tls.getpeercert(True) != bytes.fromhex(self.settings["server"]):
            raise Refused("certificate")
        encrypted = first.find("t:RequestedProofToken/e:EncryptedKey", NS)
        if encrypted.find("e:EncryptionMethod", NS).get("Algorithm") != TLS_WRAP:
            raise Refused("TLS_Wrap")
        incoming.write(base64.b64decode(encrypted.findtext("e:CipherData/e:CipherValue", namespaces=NS)))
        key = tls.read(64)
        stripped = copy.deepcopy(first)
        for local in ("RequestedSecurityToken", "RequestedProofToken"):
            stripped.remove(stripped.find(f"t:{local}", NS))
        expected = combined_hash(key, [*self.legs, c14n(stripped)])
        found = base64.b64decode(second.findtext("t:Authenticator/t:CombinedHash", namespaces=NS))
        if not hmac.compare_digest(expected, found):
            raise Refused("authenticator")
        if len(key) != 32 or first.findtext("t:KeySize", namespaces=NS) != "256":
            raise Refused("key")
        names = [child.tag.split("}")[1] for child in first]
        token = Token(first.find("t:RequestedSecurityToken/c:SecurityContextToken", NS), key)
        reference = first.find("t:RequestedAttachedReference/o:SecurityTokenReference/o:Reference", NS)
        unattached = first.find("t:RequestedUnattachedReference/o:SecurityTokenReference/o:Reference", NS)
        if reference.get("URI") != f"#{token.id}" or (unattached.get("URI"), unattached.get("ValueType")) != (token.name, SCT):
            raise Refused("references")
        return token, names, tls.version()

    def secure(self, token, action, body, with_user=False):
        message_id = f"urn:uuid:{uuid.uuid4()}"
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=self.offset)
        date = lambda time: time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"
        nonces = [os.urandom(16), os.urandom(16)]
        signing = p_sha1(token.key, LABEL + nonces[0], 24)
        encryption = p_sha1(token.key, LABEL + nonces[1], 32)
        str_ = f'<o:SecurityTokenReference><o:Reference ValueType="{token.value_type}" URI="#{token.id}"/></o:SecurityTokenReference>'
        derived = (
            f'<c:DerivedKeyToken u:Id="_0" xmlns:c="{C}">{str_}<c:Offset>0</c:Offset><c:Length>24</c:Length><c:Nonce>{b64(nonces[0])}</c:Nonce></c:DerivedKeyToken>'
            f'<c:DerivedKeyToken u:Id="_1" xmlns:c="{C}">{str_}<c:Nonce>{b64(nonces[1])}</c:Nonce></c:DerivedKeyToken>'
        )
        user = ""
        if with_user and self.settings.get("user"):
            user = (
                f'<o:UsernameToken u:Id="user"><o:Username>{within("Username", escape(self.settings["user"]))}</o:Username>'
                f'<o:Password>{escape(self.settings["password"])}</o:Password></o:UsernameToken>'
            )
        certificate = ""
        endorses = isinstance(token, FreshKey) and self.settings.get("certificate")
        if endorses:
            with open(self.settings["certificate"], "rb") as file:
                der = x509.load_pem_x509_certificate(file.read()).public_bytes(serialization.Encoding.DER)
            certificate = f'<o:BinarySecurityToken u:Id="certificate" ValueType="{X509_V3}" EncodingType="{ENCODING}">{b64(der)}</o:BinarySecurityToken>'
        security = (
            f'<o:Security s:mustUnderstand="1" xmlns:o="{O}"><u:Timestamp u:Id="time"><u:Created>{date(now)}</u:Created>'
            f"<u:Expires>{date(now + datetime.timedelta(minutes=5))}</u:Expires></u:Timestamp>"
            f"{token.write()}{derived}"
            f'<e:ReferenceList xmlns:e="{E}"/>{user}{certificate}</o:Security>'
        )
        root = etree.fromstring(envelope(action, message_id, self.settings["to"], security, body).encode(), PARSER)
        header = root.find("s:Header/o:Security", NS)
        covered = ["body", "h1", "h2", "h3", "h4", "time"] + (["user"] if user else [])
        by_id = {node.get(f"{{{U}}}Id"): node for node in root.iter(etree.Element)}

        def key_info(id_, value_type=DK):
            return f'<KeyInfo xmlns="{D}"><o:SecurityTokenReference xmlns:o="{O}"><o:Reference ValueType="{value_type}" URI="#{id_}"/></o:SecurityTokenReference></KeyInfo>'

        def sign(names, method, info, make):
            references = "".join(
                f'<Reference URI="#{name}"><Transforms><Transform Algorithm="{EXCLUSIVE}"/></Transforms>'
                f'<DigestMethod Algorithm="{D}sha1"/><DigestValue>{within("DigestValue", b64(hashlib.sha1(c14n(by_id[name])).digest()))}</DigestValue></Reference>'
                for name in names
            )
            signed = f'<SignedInfo><CanonicalizationMethod Algorithm="{EXCLUSIVE}"/><SignatureMethod Algorithm="{D}{method}"/>{references}</SignedInfo>'
            signature = etree.fromstring(f'<Signature xmlns="{D}">{signed}<SignatureValue/>{info}</Signature>', PARSER)
            signature[1].text = b64(make(c14n(signature[0])))
            header.append(signature)
            return signature

        signature = sign(covered, "hmac-sha1", key_info("_0"), lambda octets: hmac.new(signing, octets, hashlib.sha1).digest())
        signatures = [signature]
        if endorses:
            with open(self.settings["key"], "rb") as file:
                private = serialization.load_pem_private_key(file.read(), None)
            signature.set("Id", "signature")
            by_id["signature"] = signature
            make = lambda octets: private.sign(octets, rsa_padding.PKCS1v15(), hashes.SHA1())
            signatures.append(sign(["signature"], "rsa-sha1", key_info("certificate", X509_V3), make))

        def data(id_, part, octets):
            return etree.fromstring(
                f'<e:EncryptedData xmlns:e="{E}" Id="{id_}" Type="{E}{part}"><e:EncryptionMethod Algorithm="{E}aes256-cbc"/>{key_info("_1")}'
                f"<e:CipherData><e:CipherValue>{b64(encrypt(encryption, octets))}</e:CipherValue></e:CipherData></e:EncryptedData>",
                PARSER,
            )

        listed = header.find("e:ReferenceList", NS)
        content = root.find("s:Body", NS)
        octets = b"".join(etree.tostring(child) for child in content)
        parts = [("e1", content, octets if self.raw is None else self.raw.encode())]
        parts += [(f"e{n}", node, etree.tostring(node)) for n, node in enumerate([by_id["user"]] if user else [], 2)]
        parts += [(f"e{n}", node, etree.tostring(node)) for n, node in enumerate(signatures, 8)]
        for id_, node, octets in parts:
            etree.SubElement(listed, f"{{{E}}}DataReference", URI=f"#{id_}")
            if node is content:
                for child in list(node):
                    node.remove(child)
                node.append(data(id_, "Content", octets))
            else:
                header.replace(node, data(id_, "Element", octets))
        values = [signature.findtext("d:SignatureValue", namespaces=NS) for signature in signatures]
        return etree.tostring(root).decode(), message_id, values

    def ask(self, token, action, body, with_user=False):
        """Posts a secured message; returns action and body element of the verified reply."""
        if token is None:
            token = FreshKey(bytes.fromhex(self.settings["server"]))
        message, message_id, values = self.secure(token, action, body, with_user)
        if self.is_spoilt:
            at = message.index("CipherValue>") + len("CipherValue>") + 40
            message = message[:at] + ("A" if message[at] != "A" else "B") + message[at + 1 :]
        self.sent = message
        self.expires = etree.fromstring(message.encode()).findtext(f".//{{{U}}}Expires")
        root = self.post(message)
        header = root.find("s:Header/o:Security", NS)
        if header is None:
            raise Refused("not secured")
        derived = {}
        for node in header.findall("c:DerivedKeyToken", NS):
            if not token.is_named_by(node.find("o:SecurityTokenReference", NS)):
                raise Refused("token of the reply")
            number = lambda local, default: int(node.findtext(f"c:{local}", default, namespaces=NS))
            offset, length = number("Offset", "0"), number("Length", "32")
            nonce = base64.b64decode(node.findtext("c:Nonce", namespaces=NS))
            derived[node.get(f"{{{U}}}Id")] = p_sha1(token.key, LABEL + nonce, offset + length)[offset:]
        key_of = lambda node: derived[node.find("d:KeyInfo/o:SecurityTokenReference/o:Reference", NS).get("URI")[1:]]
        for reference in header.findall("e:ReferenceList/e:DataReference", NS):
            [node] = root.xpath("//e:EncryptedData[@Id=$id]", namespaces=NS, id=reference.get("URI")[1:])
            octets = decrypt(key_of(node), base64.b64decode(node.findtext("e:CipherData/e:CipherValue", namespaces=NS)))
            parent = node.getparent()
            declared = "".join(f' xmlns{":" + prefix if prefix else ""}="{uri}"' for prefix, uri in parent.nsmap.items())
            wrapper = etree.fromstring(f"<w{declared}>".encode() + octets + b"</w>", PARSER)
            at = parent.index(node)
            parent[at : at + 1] = list(wrapper)
        signature = header.find("d:Signature", NS)
        info = signature.find("d:SignedInfo", NS)
        value = base64.b64decode(signature.findtext("d:SignatureValue", namespaces=NS))
        if not hmac.compare_digest(hmac.new(key_of(signature), c14n(info), hashlib.sha1).digest(), value):
            raise Refused("signature")
        covered = set()
        for reference in info.findall("d:Reference", NS):
            [node] = root.xpath("//*[@u:Id=$id]", namespaces=NS, id=reference.get("URI")[1:])
            if hashlib.sha1(c14n(node)).digest() != base64.b64decode(reference.findtext("d:DigestValue", namespaces=NS)):
                raise Refused("digest")
            covered.add(node)
        needed = ["s:Body", "s:Header/a:Action", "s:Header/a:RelatesTo", "s:Header/o:Security/u:Timestamp"]
        if not all(root.find(path, NS) in covered for path in needed):
            raise Refused("coverage")
        # .NET wants confirmations where it knows the certificate and sends no user name, and none elsewhere.
        confirmations = header.findall("k:SignatureConfirmation", NS)
        expected = values if isinstance(token, FreshKey) and not self.settings.get("user") else []
        if sorted(node.get("Value") for node in confirmations) != sorted(expected) or not covered.issuperset(confirmations):
            raise Refused("confirmations")
        if root.findtext("s:Header/a:RelatesTo", namespaces=NS) != message_id:
            raise Refused("RelatesTo")
        return root.findtext("s:Header/a:Action", namespaces=NS), root.find("s:Body", NS)

    def establish(self, bootstrap):
        entropy = os.urandom(32)
        body = (
            f'<t:RequestSecurityToken xmlns:t="{T}"><t:TokenType>{SCT}</t:TokenType><t:RequestType>{T}/Issue</t:RequestType>'
            f'<t:Entropy><t:BinarySecret Type="{T}/Nonce">{b64(entropy)}</t:BinarySecret></t:Entropy><t:KeySize>256</t:KeySize></t:RequestSecurityToken>'
        )
        action, body = self.ask(bootstrap, f"{T}/RST/SCT", body, with_user=True)
        response = body.find(RESPONSE, NS)
        computed = response.findtext("t:RequestedProofToken/t:ComputedKey", namespaces=NS)
        if action != f"{T}/RSTR/SCT" or computed != f"{T}/CK/PSHA1":
            raise Refused("RSTR/SCT")
        theirs = base64.b64decode(response.findtext("t:Entropy/t:BinarySecret", namespaces=NS))
        element = response.find("t:RequestedSecurityToken/c:SecurityContextToken", NS)
        return Token(element, p_sha1(entropy, theirs, 32))

    def renew(self, token):
        """Renews a session under itself: the same Identifier, and another key with an Instance."""
        entropy = os.urandom(32)
        body = (
            f'<t:RequestSecurityToken xmlns:t="{T}"><t:TokenType>{SCT}</t:TokenType><t:RequestType>{T}/Renew</t:RequestType>'
            f'<t:RenewTarget><o:SecurityTokenReference xmlns:o="{O}"><o:Reference URI="{token.name}" ValueType="{SCT}"/></o:SecurityTokenReference></t:RenewTarget>'
            f'<t:Entropy><t:BinarySecret Type="{T}/Nonce">{b64(entropy)}</t:BinarySecret></t:Entropy><t:KeySize>256</t:KeySize></t:RequestSecurityToken>'
        )
        action, body = self.ask(token, f"{T}/RST/SCT/Renew", body)
        response = body.find(RESPONSE, NS)
        theirs = base64.b64decode(response.findtext("t:Entropy/t:BinarySecret", namespaces=NS))
        renewed = Token(response.find("t:RequestedSecurityToken/c:SecurityContextToken", NS), p_sha1(entropy, theirs, 32))
        instance = renewed.element.findtext("c:Instance", namespaces=NS)
        if action != f"{T}/RSTR/SCT/Renew" or renewed.name != token.name or not instance:
            raise Refused("RSTR/SCT/Renew")
        return renewed, instance

    def cancel(self, token):
        body = (
            f'<t:RequestSecurityToken xmlns:t="{T}"><t:RequestType>{T}/Cancel</t:RequestType><t:CancelTarget><o:SecurityTokenReference xmlns:o="{O}">'
            f'<o:Reference URI="{token.name}" ValueType="{SCT}"/></o:SecurityTokenReference></t:CancelTarget></t:RequestSecurityToken>'
        )
        action, body = self.ask(token, f"{T}/RST/SCT/Cancel", body)
        if body.find(f"{RESPONSE}/t:RequestedTokenCancelled", NS) is None:
            raise Refused("RSTR/SCT/Cancel")
        return action


def change(token, command):
    """Changes what is in the element of a token; its key stays."""
    for name, path in (("cookie", f"{{{DNSE}}}Cookie"), ("identifier", f"{{{C}}}Identifier"), ("instance", f"{{{C}}}Instance")):
        if name in command:
            found = token.element.find(path)
            if found is not None and command[name] is None:
                token.element.remove(found)
            elif command[name] is not None:
                found = etree.SubElement(token.element, path) if found is None else found
                found.text = command[name]


def main():
    settings = SETTINGS
    client = Client(settings)

    def step(name, work):
        try:
            answer = work()
        except Refused as refused:
            print(json.dumps({"step": name, "error": str(refused)}), flush=True)
            return None
        print(json.dumps({"step": name, **answer[1]}), flush=True)
        return answer[0]

    def negotiate():
        token, names, version = client.negotiate()
        return token, {"children": names, "version": version, "name": token.name}

    def establish():
        token = client.establish(bootstrap)
        return token, {"name": token.name}

    def call(n):
        body = client.raw or f'<Echo xmlns="urn:echo">call {n} &amp; more</Echo>'
        action, body = client.ask(token, "urn:echo", body, per_call)
        fields = {node.tag.split("}")[-1]: node.text or "" for reply in body for node in reply}
        return True, {"action": action, "text": "".join(body.itertext()), "fields": fields}

    bootstrap = None
    if settings.get("negotiate", True):
        bootstrap = step("negotiate", negotiate)
        if bootstrap is None:
            return
    per_call = settings["binding"] == "call"
    token = bootstrap if per_call else step("establish", establish)
    if token is None and not per_call:
        return
    for n in range(1, settings["calls"] + 1):
        step("call", lambda: call(n))
    if settings.get("renew"):

        def renew():
            renewed, instance = client.renew(token)
            return renewed, {"name": renewed.name, "instance": instance}

        token = step("renew", renew) or token
        step("call", lambda: call(settings["calls"] + 1))
    if settings.get("commands"):

        def renewed():
            nonlocal token
            token, instance = client.renew(token)
            return True, {"name": token.name, "instance": instance}

        def replay():
            client.post(client.sent)
            return True, {}

        def show():
            text = lambda path: token.element.findtext(path)
            return True, {
                "cookie": text(f"{{{DNSE}}}Cookie"),
                "identifier": text(f"{{{C}}}Identifier"),
                "instance": text(f"{{{C}}}Instance"),
                "expires": getattr(client, "expires", None),
            }

        for line in iter(sys.stdin.readline, ""):
            command = json.loads(line)
            client.connect(command.get("url", settings["url"]))
            client.offset, client.is_spoilt = command.get("offset", 0), command.get("spoil", False)
            client.raw = command.get("body")
            change(token, command)
            work = {
                "call": lambda: call(0),
                "renew": renewed,
                "cancel": lambda: (True, {"action": client.cancel(token)}),
                "replay": replay,
                "token": show,
            }
            step(command["do"], work[command["do"]])
        return
    if token is not None and settings.get("cancel", True):
        step("cancel", lambda: (True, {"action": client.cancel(token)}))
        step("call", lambda: call(settings["calls"] + 1))


main()
