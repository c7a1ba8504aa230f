#!/usr/bin/env python3
"""Reads a recorded exchange under an EncryptedKey and the session that it opens: xmlsec1 decrypts and verifies each message.

It reads a JSON object from standard input: {"folder": with N-request.xml and N-reply.xml, from 1, "server_key": PEM file with the
key of the service}. It writes one JSON object a line: {"step": "1-request", "action": …, "user": …, "text": of the body}, or
{"step": …, "error": …}. The keys come from `cryptography` and the P_SHA1 of tlsnego_openssl.py.
"""
import base64
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from lxml import etree

from tlsnego_openssl import p_sha1

NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://www.w3.org/2005/08/addressing",
    "t": "http://schemas.xmlsoap.org/ws/2005/02/trust",
    "c": "http://schemas.xmlsoap.org/ws/2005/02/sc",
    "o": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
    "u": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd",
    "k": "http://docs.oasis-open.org/wss/oasis-wss-wssecurity-secext-1.1.xsd",
    "e": "http://www.w3.org/2001/04/xmlenc#",
    "d": "http://www.w3.org/2000/09/xmldsig#",
}
LABEL = b"WS-SecureConversation" * 2
IDS = ["s:Body", "u:Timestamp", "o:UsernameToken", "e:EncryptedData", "d:Signature", "k:SignatureConfirmation",
       *(f"a:{name}" for name in ["Action", "To", "MessageID", "ReplyTo", "RelatesTo"])]


class Refused(Exception):
    """A message that is not what it has to be."""


def xmlsec1(mode, folder, octets, key, kind, *where):
    files = {"in.xml": octets, "key": key}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    ids = [f"--id-attr:Id={NS[name.split(':')[0]]}:{name.split(':')[1]}".replace("=", " ", 1).split(" ") for name in IDS]
    command = ["xmlsec1", mode, "--output", folder / "out.xml", *sum(ids, []), kind, folder / "key", *where, folder / "in.xml"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        raise Refused(f"xmlsec1 {mode}")
    return (folder / "out.xml").read_bytes()


class Exchange:
    def __init__(self, settings):
        key = pathlib.Path(settings["server_key"]).read_bytes()
        self.private = serialization.load_pem_private_key(key, None)
        self.sessions = {}
        self.fresh = {}

    def token_key(self, header, reference):
        node = reference.find("o:Reference", NS)
        if node is None:
            return self.fresh[reference.findtext("o:KeyIdentifier", namespaces=NS)]
        if not node.get("URI").startswith("#"):
            return self.sessions[node.get("URI")]
        [token] = header.xpath("*[@Id=$id or @u:Id=$id]", namespaces=NS, id=node.get("URI")[1:])
        if token.tag.endswith("}SecurityContextToken"):
            name = token.findtext("c:Identifier", namespaces=NS)
            if name not in self.sessions:
                raise Refused("unknown session")
            return self.sessions[name]
        wrapped = base64.b64decode(token.findtext("e:CipherData/e:CipherValue", namespaces=NS))
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        key = self.private.decrypt(wrapped, oaep)
        self.fresh[base64.b64encode(hashlib.sha1(wrapped).digest()).decode()] = key
        return key

    def open(self, octets):
        """The message in clear, after all of its signatures were verified."""
        root = etree.fromstring(octets)
        header = root.find("s:Header/o:Security", NS)
        if header is None:
            values = root.findall("s:Body/s:Fault//s:Value", NS)
            prefix, local = values[-1].text.split(":")
            raise Refused(f"{{{values[-1].nsmap[prefix]}}}{local}")
        derived = {}
        for node in header.findall("c:DerivedKeyToken", NS):
            key = self.token_key(header, node.find("o:SecurityTokenReference", NS))
            length = int(node.findtext("c:Length", "32", namespaces=NS))
            nonce = base64.b64decode(node.findtext("c:Nonce", namespaces=NS))
            derived[node.get(f"{{{NS['u']}}}Id")] = p_sha1(key, LABEL + nonce, length)
        key_of = lambda node: derived[node.find("d:KeyInfo/o:SecurityTokenReference/o:Reference", NS).get("URI")[1:]]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for reference in header.findall("e:ReferenceList/e:DataReference", NS):
                name = reference.get("URI")[1:]
                [node] = root.xpath("//e:EncryptedData[@Id=$id]", namespaces=NS, id=name)
                octets = xmlsec1("--decrypt", folder, octets, key_of(node), "--aeskey", "--node-id", name)
            root = etree.fromstring(octets)
            [signature] = root.findall("s:Header/o:Security/d:Signature", NS)
            where = ("--node-xpath", "(//*[local-name()='Signature'])[1]")
            xmlsec1("--verify", folder, octets, key_of(signature), "--hmackey", *where)
        covered = {node.get("URI")[1:] for node in signature.findall("d:SignedInfo/d:Reference", NS)}
        needed = [root.find("s:Body", NS), *root.findall("s:Header/a:*", NS), root.find("s:Header/o:Security/u:Timestamp", NS)]
        needed += root.findall("s:Header/o:Security/o:UsernameToken", NS)
        if not covered.issuperset(node.get(f"{{{NS['u']}}}Id") for node in needed):
            raise Refused("coverage")
        return root

    def established(self, request, reply):
        response = reply.find("s:Body/t:RequestSecurityTokenResponse", NS)
        token = None if response is None else response.find("t:RequestedSecurityToken/c:SecurityContextToken", NS)
        if token is not None:
            asked = request.find("s:Body/t:RequestSecurityToken", NS)
            entropy = [base64.b64decode(node.findtext("t:Entropy/t:BinarySecret", namespaces=NS)) for node in (asked, response)]
            self.sessions[token.findtext("c:Identifier", namespaces=NS)] = p_sha1(*entropy, 32)


def main():
    settings = json.load(sys.stdin)
    folder, exchange = pathlib.Path(settings["folder"]), Exchange(settings)

    def step(name):
        try:
            root = exchange.open((folder / f"{name}.xml").read_bytes())
        except Refused as refused:
            print(json.dumps({"step": name, "error": str(refused)}), flush=True)
            return None
        user = root.findtext("s:Header/o:Security/o:UsernameToken/o:Username", namespaces=NS)
        print(json.dumps({"step": name, "action": root.findtext("s:Header/a:Action", namespaces=NS), "user": user,
                          "text": "".join(root.find("s:Body", NS).itertext())}), flush=True)
        return root

    n = 1
    while (folder / f"{n}-request.xml").exists():
        request, reply = step(f"{n}-request"), step(f"{n}-reply")
        if request is not None and reply is not None:
            exchange.established(request, reply)
        n += 1


main()
