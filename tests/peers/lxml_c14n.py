#!/usr/bin/env python3
"""Exclusive canonicalisation by lxml: a request a line on standard input, an answer a line on standard output.

Request: base64 of a document, the number of the element that is the apex in document order, and the prefixes of the PrefixList, all
separated by spaces. Answer: base64 of the canonical octets, or `refused` if lxml does not read the document.
"""

import base64
import sys

from lxml import etree


def answer(line):
    document, apex, *prefixes = line.split(" ")
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        root = etree.fromstring(base64.b64decode(document), parser)
        element = list(root.iter(tag=etree.Element))[int(apex)]
        octets = etree.tostring(
            element, method="c14n", exclusive=True, with_comments=False, inclusive_ns_prefixes=prefixes or None
        )
    except (etree.LxmlError, ValueError):
        return "refused"
    return base64.b64encode(octets).decode()


def main():
    for line in sys.stdin:
        print(answer(line.rstrip("\n")), flush=True)


if __name__ == "__main__":
    main()
