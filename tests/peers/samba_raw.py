"""Runs Samba's own tests of raw DCE/RPC, which were written against Windows, at an endpoint mapper on port 135.

    samba_raw.py JSON           (or `-` to read it from standard input; run it with /usr/bin/python3)

  host, port                    the server, on port 135 unless another one is named
  providers                     run the tests of these providers and no others: a list of ntlm and spnego; empty by default
  user, password, domain        for the providers

Left out are tests of what is not served here: providers that are not named (NTLM, SPNEGO, Kerberos, and those of LSA's interface under
them), and SMB's pipes. Prints {"ran": [...], "failed": {name: traceback}}.
"""

import json
import os
import sys
import unittest

request = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
os.environ |= {"SERVER": request["host"], "SMB_CONF_PATH": "/dev/null"}
os.environ |= {"USERNAME": request.get("user", ""), "PASSWORD": request.get("password", ""), "DOMAIN": request.get("domain", ""), "REALM": ""}

from samba.tests.dcerpc import raw_protocol, raw_testcase

PORT = str(request.get("port", 135))
WANTED = request.get("providers", [])
OTHER_PROVIDERS = ("ntlm", "spnego", "krb5", "lsa", "multiple_auth")
OTHER_TRANSPORTS = ("test_assoc_group_ok2", "test_assoc_group_fail3")


def served(test):
    name = test.id().rsplit(".", 1)[1]
    if WANTED:
        others = [provider for provider in OTHER_PROVIDERS if provider not in WANTED]
        return any(provider in name for provider in WANTED) and not any(provider in name for provider in others)
    return name not in OTHER_TRANSPORTS and not any(provider in name for provider in OTHER_PROVIDERS)


connect = raw_testcase.RawDCERPCTest.connect


def connect_to_port(test):
    """The tests have port 135 written in them."""
    if test.primary_address == "135":
        test.primary_address = PORT
    connect(test)


raw_testcase.RawDCERPCTest.connect = connect_to_port


def flat(suite):
    for test in suite:
        yield from flat(test) if isinstance(test, unittest.TestSuite) else (test,)


tests = [test for test in flat(unittest.defaultTestLoader.loadTestsFromModule(raw_protocol)) if served(test)]
# They tell what they do on standard output.
output, sys.stdout = sys.stdout, sys.stderr
result = unittest.TestSuite(tests).run(unittest.TestResult())
name = lambda test: test.id().rsplit(".", 1)[1]
failed = {name(test): text for test, text in result.failures + result.errors}
json.dump({"ran": [name(test) for test in tests], "failed": failed}, output)
