"""Calls the management interface as a user, as Samba's stack does.

    samba_user_client.py JSON   (or `-` to read it from standard input; run it with /usr/bin/python3)

  host, port                    the server
  user, password, domain        who calls
  options                       of the binding: `ntlm` or `spnego`, and `connect`, `sign` or `seal`; other options as they are
  calls                         how often is_server_listening is called

Prints {"answers": [...], "error": null}: what each call returned. What ends the conversation early is `error`.
"""

import json
import sys

from samba.credentials import DONT_USE_KERBEROS, Credentials
from samba.dcerpc import mgmt
from samba.param import LoadParm

given = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
done = {"answers": [], "error": None}
try:
    lp = LoadParm()
    lp.set("client ntlmv2 auth", "yes")
    credentials = Credentials()
    credentials.guess(lp)
    credentials.set_kerberos_state(DONT_USE_KERBEROS)
    credentials.set_username(given["user"])
    credentials.set_password(given["password"])
    credentials.set_domain(given.get("domain", ""))
    binding = f"ncacn_ip_tcp:{given['host']}[{given['port']},{','.join(given['options'])}]"
    connection = mgmt.mgmt(binding, lp, credentials)
    for _ in range(given["calls"]):
        done["answers"].append(str(connection.is_server_listening()))
except Exception as error:
    done["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(done))
