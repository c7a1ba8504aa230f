#!/usr/bin/env python3
"""Reads a WSDL with WS-SecurityPolicy by lxml: the document on standard input, what a client takes from it as JSON on standard output.

A GetResponse of WS-MetadataExchange is read as well: the WSDL in it is. A policy is printed as one line, with the element `wsp:Policy`
left out: NAME[IncludeToken](inner ...), and the names that the specifications use in place of namespaces.
"""

import base64
import json
import sys

from lxml import etree

NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://www.w3.org/2005/08/addressing",
    "ds": "http://www.w3.org/2000/09/xmldsig#",
    "wsdl": "http://schemas.xmlsoap.org/wsdl/",
    "soap12": "http://schemas.xmlsoap.org/wsdl/soap12/",
    "wsp": "http://schemas.xmlsoap.org/ws/2004/09/policy",
    "wsu": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd",
    "sp": "http://schemas.xmlsoap.org/ws/2005/07/securitypolicy",
    "sp12": "http://docs.oasis-open.org/ws-sx/ws-securitypolicy/200702",
    "mssp": "http://schemas.microsoft.com/ws/2005/07/securitypolicy",
    "wsaw": "http://www.w3.org/2006/05/addressing/wsdl",
    "wsid": "http://schemas.xmlsoap.org/ws/2006/02/addressingidentity",
    "wsx": "http://schemas.xmlsoap.org/ws/2004/09/mex",
}
PREFIXES = {uri: prefix for prefix, uri in NS.items()}


def short(name):
    if not name.startswith("{"):
        return name
    uri, local = name[1:].split("}")
    return f"{PREFIXES[uri]}:{local}"


def outline(element):
    name = short(element.tag)
    if name == "wsp:Policy":
        return outlines(element)
    attributes = {short(key): value for key, value in element.attrib.items()}
    for version in ("sp", "sp12"):
        include = attributes.pop(version + ":IncludeToken", None)
        if include is not None:
            start, end = include.rsplit("/", 1)
            assert start == NS[version] + "/IncludeToken", include
            name += f"[{end}]"
    if name in ("sp:Header", "sp12:Header"):
        assert attributes.pop("Namespace") == NS["a"]
        name += "=" + attributes.pop("Name")
    assert not attributes, attributes
    inner = outlines(element)
    return f"{name}({inner})" if inner else name


def outlines(element):
    return " ".join(filter(None, map(outline, element)))


class Wsdl:
    def __init__(self, definitions):
        self.definitions = definitions

    def find(self, path, **variables):
        return self.definitions.xpath(path, namespaces=NS, **variables)

    def one(self, path, **variables):
        found = self.find(path, **variables)
        assert len(found) == 1, (path, variables, found)
        return found[0]

    def policies(self, element):
        """The policies that an element refers to."""
        texts = []
        for uri in element.xpath("wsp:PolicyReference/@URI", namespaces=NS):
            assert uri.startswith("#"), uri
            policy = self.one("wsp:Policy[@wsu:Id = $id]", id=uri[1:])
            alternatives = policy.xpath("wsp:ExactlyOne/wsp:All", namespaces=NS)
            assert len(alternatives) == 1 and len(policy) == 1, uri
            texts.append(outlines(alternatives[0]))
        assert len(texts) == 1, texts
        return texts[0]

    def local(self, element, attribute):
        """A name in the target namespace."""
        prefix, local = element.get(attribute).split(":")
        assert element.nsmap[prefix] == self.definitions.get("targetNamespace")
        return local

    def message(self, bound, abstract):
        soap = bound.xpath("soap12:*", namespaces=NS)
        assert len(soap) == 1
        return {
            "kind": etree.QName(bound).localname,
            "soap": etree.QName(soap[0]).localname,
            "attributes": dict(soap[0].attrib),
            "actions": [value for key, value in abstract.attrib.items() if etree.QName(key).localname == "Action"],
            "message": self.one("wsdl:message[@name = $name]", name=self.local(abstract, "message")).get("name"),
            "policy": self.policies(bound),
        }

    def operation(self, bound, port_type):
        name = bound.get("name")
        (abstract,) = port_type.xpath("wsdl:operation[@name = $name]", namespaces=NS, name=name)
        soap = bound.xpath("soap12:operation", namespaces=NS)[0]
        kinds = "wsdl:input | wsdl:output | wsdl:fault"
        messages = zip(bound.xpath(kinds, namespaces=NS), abstract.xpath(kinds, namespaces=NS), strict=True)
        return {
            "name": name,
            "action": soap.get("soapAction"),
            "style": soap.get("style"),
            "messages": [self.message(*pair) for pair in messages],
        }

    def port(self, port):
        binding = self.one("wsdl:binding[@name = $name]", name=self.local(port, "binding"))
        port_type = self.one("wsdl:portType[@name = $name]", name=self.local(binding, "type"))
        certificate = port.xpath(
            "a:EndpointReference/wsid:Identity/ds:KeyInfo/ds:X509Data/ds:X509Certificate/text()", namespaces=NS
        )
        return {
            "name": port.get("name"),
            "port_type": port_type.get("name"),
            "transport": binding.xpath("string(soap12:binding/@transport)", namespaces=NS),
            "addresses": port.xpath("soap12:address/@location | a:EndpointReference/a:Address/text()", namespaces=NS),
            "certificate": base64.b64decode("".join(certificate), validate=True).hex(),
            "advice": port.xpath("string(wsdl:documentation)", namespaces=NS),
            "policy": self.policies(binding),
            "operations": [
                self.operation(bound, port_type) for bound in binding.xpath("wsdl:operation", namespaces=NS)
            ],
        }

    def read(self):
        return {
            "target": self.definitions.get("targetNamespace"),
            "service": self.one("wsdl:service").get("name"),
            "documentation": self.find("string(wsdl:service/wsdl:documentation)"),
            "ports": [self.port(port) for port in self.find("wsdl:service/wsdl:port")],
            "port_types": self.find("wsdl:portType/@name"),
            "elements": self.find("wsdl:types/*/*[local-name() = 'element']/@name"),
            "policies": len(self.find("wsp:Policy")),
            "references_below_port_types": len(self.find("wsdl:portType//wsp:*")),
        }


def main():
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    root = etree.fromstring(sys.stdin.buffer.read(), parser)
    answer = {}
    if etree.QName(root).namespace == NS["s"]:
        header = {short(element.tag): element.text for element in root.find("s:Header", NS)}
        (section,) = root.xpath("s:Body/wsx:Metadata/wsx:MetadataSection", namespaces=NS)
        answer = {"header": header, "section": dict(section.attrib)}
        (root,) = section
    assert root.tag == "{%s}definitions" % NS["wsdl"], root.tag
    print(json.dumps({**answer, **Wsdl(root).read()}))


if __name__ == "__main__":
    main()
