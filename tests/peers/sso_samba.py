"""Gets the master secret as Samba's Python bindings do. They know no such interface, so they reach it through the management interface.

    sso_samba.py JSON        (or `-` to read it from standard input)

  host, port                    where the interface is
  user, domain, password
  options                       list of binding options, such as ["seal"], ["sign"], ["seal", "bigendian"] or ["seal", "ndr64"]
  mechanism                     "ntlm" or "spnego" (default): what the options say is added
  calls                         list of hex stubs (default one of 10000000)

Prints {"answers": [...], "error": null}. An answer is {"stub": hex} or {"error": [number, text]}.
"""

from samba import NTSTATUSError
from samba.credentials import DONT_USE_KERBEROS, Credentials
from samba.dcerpc import base, mgmt
from samba.param import LoadParm

import rcmp

INTERFACE = ("9d07ca0d-8f02-4ed5-b727-acf37fea5bbc", 1)


def main():
    given = rcmp.arguments(__doc__)
    result = {"answers": [], "error": None}
    parameters = LoadParm()
    for name, value in (("workgroup", "PEERS"), ("netbios name", "PEER"), ("interfaces", "127.0.0.1/8"), ("log level", "0")):
        parameters.set(name, value)
    credentials = Credentials()
    credentials.guess(parameters)
    credentials.set_kerberos_state(DONT_USE_KERBEROS)
    credentials.set_domain(given.get("domain", ""))
    credentials.set_workstation("PEER")
    credentials.set_username(given["user"])
    credentials.set_password(given["password"])
    options = list(given.get("options", ["seal"]))
    if given.get("mechanism", "spnego") == "ntlm":
        options.append("ntlm")
    binding = f"ncacn_ip_tcp:{given['host']}[{given['port']},{','.join(options)}]"
    try:
        # A connection that knows its interface authenticates; the other interface is a second context on it.
        first = mgmt.mgmt(binding, parameters, credentials)
        connection = base.ClientConnection(binding, INTERFACE, parameters, basis_connection=first)
        for stub in given.get("calls", ["10000000"]):
            try:
                result["answers"].append({"stub": connection.request(0, bytes.fromhex(stub)).hex()})
            except (NTSTATUSError, RuntimeError) as error:
                result["answers"].append({"error": [error.args[0], error.args[1]]})
    except (NTSTATUSError, RuntimeError) as error:
        result["error"] = list(error.args)
    rcmp.finish(result)


if __name__ == "__main__":
    main()
