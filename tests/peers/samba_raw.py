"""Runs Samba's own tests of raw DCE/RPC, which were written against Windows, at an endpoint mapper on port 135.

    samba_raw.py JSON           (or `-` to read it from standard input; run it with /usr/bin/python3)

  host                          the server

Left out are tests of what is not served here: other security providers (NTLM, SPNEGO, Kerberos, and those of LSA's interface under
them), and SMB's pipes. Prints {"ran": [...], "failed": {name: traceback}}.
"""

import json
import os
import sys
import unittest

request = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
os.environ |= {"SERVER": request["host"], "SMB_CONF_PATH": "/dev/null"}

from samba.tests.dcerpc import raw_protocol

OTHER_PROVIDERS = ("ntlm", "spnego", "krb5", "lsa", "multiple_auth")
OTHER_TRANSPORTS = ("test_assoc_group_ok2", "test_assoc_group_fail3")


def served(test):
    name = test.id().rsplit(".", 1)[1]
    return name not in OTHER_TRANSPORTS and not any(provider in name for provider in OTHER_PROVIDERS)


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
