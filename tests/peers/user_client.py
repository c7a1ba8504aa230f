"""Calls an interface as a user, as Impacket does: NTLM in auth type 10.

    user_client.py JSON         (or `-` to read it from standard input)

  host, port                    the server
  interface                     UUID; version 1.0
  user, password, domain        who calls
  level                         number of the authentication level: 2, 5 or 6
  opnums                        methods to call, each with an empty stub

Prints {"answers": [...], "error": null}: what each method returned, as text. What ends the conversation early is `error`.
"""

import json
import sys

from impacket.dcerpc.v5 import transport
from impacket.dcerpc.v5.rpcrt import RPC_C_AUTHN_WINNT
from impacket.uuid import uuidtup_to_bin

given = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
done = {"answers": [], "error": None}
try:
    rpc = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:{given['host']}[{given['port']}]")
    rpc.set_credentials(given["user"], given["password"], given.get("domain", ""))
    rpc.set_connect_timeout(20)
    dce = rpc.get_dce_rpc()
    dce.set_auth_type(RPC_C_AUTHN_WINNT)
    dce.set_auth_level(given["level"])
    dce.connect()
    dce.bind(uuidtup_to_bin((given["interface"], "1.0")))
    for opnum in given["opnums"]:
        dce.call(opnum, b"")
        done["answers"].append(dce.recv().decode())
except Exception as error:
    done["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(done))
