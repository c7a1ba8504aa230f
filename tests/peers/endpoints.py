"""Asks an endpoint mapper where Netlogon is and what else is there, and both ports' management interface, with Impacket.

    endpoints.py JSON              host, port (Netlogon's), mapper_port

Prints {"map": binding, "lookup": [{uuid, binding, annotation}], "unknown": status of ept_map for an interface that no server has,
"management": {"mapper": {...}, "netlogon": {"listening": 1, "interfaces": [uuid], "statistics": n}}}.
"""

import sys

from impacket.dcerpc.v5 import epm, mgmt, nrpc, transport
from impacket.dcerpc.v5.rpcrt import DCERPCException
from impacket.uuid import bin_to_string, uuidtup_to_bin

import rcmp

UNKNOWN = ("11111111-2222-3333-4444-555555555555", "1.0")


def connect(host, port, interface=None):
    rpc = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:{host}[{port}]").get_dce_rpc()
    rpc.connect()
    if interface:
        rpc.bind(interface)
    return rpc


def lookup(rpc):
    found = []
    for entry in epm.hept_lookup(None, dce=rpc):
        floors = entry["tower"]["Floors"]
        found.append({"uuid": bin_to_string(floors[0]["InterfaceUUID"]), "binding": epm.PrintStringBinding(floors),
                      "annotation": entry["annotation"][:-1].decode()})
    return found


def management(host, port):
    rpc = connect(host, port, mgmt.MSRPC_UUID_MGMT)
    interfaces = mgmt.hinq_if_ids(rpc)["if_id_vector"]
    listening = mgmt.his_server_listening(rpc)["status"]
    return {"listening": int(listening == 0), "interfaces": [bin_to_string(one["Data"]["Uuid"]) for one in interfaces["if_id"]]}


def main():
    given = rcmp.arguments(__doc__)
    host = given["host"]
    mapper = given["mapper_port"]

    def find(interface):
        # It binds by itself, and a connection is bound once.
        return epm.hept_map(host, interface, protocol="ncacn_ip_tcp", dce=connect(host, mapper))

    result = {"map": find(nrpc.MSRPC_UUID_NRPC), "lookup": lookup(connect(host, mapper))}
    try:
        result["unknown"] = find(uuidtup_to_bin(UNKNOWN))
    except DCERPCException as error:
        result["unknown"] = rcmp.status(error.error_code) if error.error_code else str(error)
    result["management"] = {"mapper": management(host, mapper), "netlogon": management(host, given["port"])}
    rcmp.finish(result)


if __name__ == "__main__":
    sys.exit(main())
