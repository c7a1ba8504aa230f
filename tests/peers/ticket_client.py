"""Calls a server with a ticket of a credential cache, as Samba's stack or as Impacket does.

    ticket_client.py samba|impacket -       (the first with /usr/bin/python3; JSON comes from standard input)

  host, port                    the server
  cache, client, realm          the cache of the client, and its principal
  service                       the service of the ticket, without its realm
  options                       Samba: of the binding, `krb5` or `spnego`, and `connect`, `sign` or `seal`
  level                         Impacket: number of the authentication level
  interface, opnums             Impacket: UUID (version 1.0), and methods to call, each with an empty stub
  calls                         Samba: how often is_server_listening of the management interface is called

Prints {"answers": [...], "error": null}: what each call returned, as text. What ends the conversation early is `error`.
"""

import json
import sys


def samba(given, answers):
    from samba.credentials import MUST_USE_KERBEROS, SPECIFIED, Credentials
    from samba.dcerpc import mgmt
    from samba.param import LoadParm
    lp = LoadParm()
    lp.set("realm", given["realm"])
    credentials = Credentials()
    credentials.guess(lp)
    credentials.set_kerberos_state(MUST_USE_KERBEROS)
    credentials.set_named_ccache(f"FILE:{given['cache']}", SPECIFIED, lp)
    target = f"target_principal={given['service']}@{given['realm']}"
    binding = f"ncacn_ip_tcp:{given['host']}[{given['port']},{target},{','.join(given['options'])}]"
    connection = mgmt.mgmt(binding, lp, credentials)
    for _ in range(given["calls"]):
        answers.append(str(connection.is_server_listening()))


def impacket(given, answers):
    from impacket.dcerpc.v5 import transport
    from impacket.dcerpc.v5.rpcrt import RPC_C_AUTHN_GSS_NEGOTIATE
    from impacket.krb5.ccache import CCache
    from impacket.uuid import uuidtup_to_bin
    ticket = CCache.loadFile(given["cache"]).getCredential(f"{given['service']}@{given['realm']}")
    rpc = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:{given['host']}[{given['port']}]")
    rpc.set_credentials(given["client"], "", given["realm"], "", "", "", None, ticket.toTGS())
    rpc.set_kerberos(True)
    rpc.set_connect_timeout(20)
    dce = rpc.get_dce_rpc()
    dce.set_auth_type(RPC_C_AUTHN_GSS_NEGOTIATE)
    dce.set_auth_level(given["level"])
    dce.connect()
    dce.bind(uuidtup_to_bin((given["interface"], "1.0")))
    for opnum in given["opnums"]:
        dce.call(opnum, b"")
        answers.append(dce.recv().decode())


client, given = {"samba": samba, "impacket": impacket}[sys.argv[1]], json.load(sys.stdin)
done = {"answers": [], "error": None}
try:
    client(given, done["answers"])
except Exception as error:
    done["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(done))
