"""Runs Samba's own tests of raw DCE/RPC, which were written against Windows, at an endpoint mapper on port 135.

    samba_raw.py JSON           (or `-` to read it from standard input; run it with /usr/bin/python3)

  host, port                    the server, on port 135 unless another one is named
  providers                     run the tests of these providers and no others: a list of ntlm, spnego and krb5; empty by default
  user, password, domain        for the providers
  cache, service, realm         for Kerberos: the user's cache, and the service of its ticket (set KRB5_CONFIG)

Left out are tests of what is not served here: providers that are not named (NTLM, SPNEGO, Kerberos, and those of LSA's interface under
them), and SMB's pipes. Prints {"ran": [...], "failed": {name: traceback}}.
"""

import json
import os
import sys
import types
import unittest

request = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
os.environ |= {"SERVER": request["host"], "SMB_CONF_PATH": "/dev/null"}
os.environ |= {"USERNAME": request.get("user", ""), "PASSWORD": request.get("password", ""), "DOMAIN": request.get("domain", ""), "REALM": request.get("realm", "")}

from samba.credentials import MUST_USE_KERBEROS, SPECIFIED, Credentials
from samba.tests.dcerpc import raw_protocol, raw_testcase

PORT = request.get("port", 135)
WANTED = request.get("providers", [])
OTHER_PROVIDERS = ("ntlm", "spnego", "krb5", "lsa", "multiple_auth")
OTHER_TRANSPORTS = ("test_assoc_group_ok2", "test_assoc_group_fail3")


def served(test):
    name = test.id().rsplit(".", 1)[1]
    if WANTED:
        others = [provider for provider in OTHER_PROVIDERS if provider not in WANTED]
        return any(provider in name for provider in WANTED) and not any(provider in name for provider in others)
    return name not in OTHER_TRANSPORTS and not any(provider in name for provider in OTHER_PROVIDERS)


resolve = raw_testcase.socket.getaddrinfo
# The tests have port 135 written in them, and in the server's answers.
raw_testcase.socket.getaddrinfo = lambda host, port, *rest: resolve(host, PORT if port == 135 else port, *rest)
if WANTED:
    # What they test of legs, padding and levels, they do as an anonymous user.
    raw_testcase.RawDCERPCTest.get_anon_creds = raw_testcase.RawDCERPCTest.get_user_creds
if "krb5" in WANTED:
    service, os.environ["TARGET_HOSTNAME"] = request["service"].split("/")
    start_client = raw_testcase.gensec.Security.start_client

    def start(settings):
        security = start_client(settings)
        security.set_target_service(service)
        return security

    def ticket_creds(test):
        creds = Credentials()
        creds.guess(test.lp_ctx)
        creds.set_kerberos_state(MUST_USE_KERBEROS)
        creds.set_named_ccache(f"FILE:{request['cache']}", SPECIFIED, test.lp_ctx)
        return creds

    raw_testcase.gensec = types.SimpleNamespace(**vars(raw_testcase.gensec) | {"Security": types.SimpleNamespace(start_client=start)})
    raw_testcase.RawDCERPCTest.get_user_creds = ticket_creds


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
