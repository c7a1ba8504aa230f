#!/usr/bin/python3
"""People and groups of a Samba domain, made beside its controller: run it with `nsenter -t PID -n -m`.

    samba_people.py DC_FOLDER JSON

JSON has "users", {name: {"password": ..., "attributes": {name: [values]}}}, and "groups", {name: {"type": number, "members": [names]}}, where
a group that is there is only added to. Prints {"users": {name: SID}, "groups": {name: SID}}.
"""

import json
import pathlib
import sys

import ldb
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB


def found(sam, name):
    entry = sam.search(sam.domain_dn(), expression=f"(sAMAccountName={ldb.binary_encode(name)})", attrs=["objectSid"])
    return entry[0] if len(entry) else None


def sids(sam, names):
    return {name: sam.schema_format_value("objectSid", found(sam, name)["objectSid"][0]).decode() for name in names}


def main():
    folder, given = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    loaded = LoadParm()
    loaded.load(str(folder / "etc" / "smb.conf"))
    sam = SamDB(url=str(folder / "private" / "sam.ldb"), session_info=system_session(loaded), lp=loaded)
    sam.transaction_start()
    for name, user in given["users"].items():
        if found(sam, name) is None:
            sam.newuser(name, user["password"])
        change = ldb.Message(found(sam, name).dn)
        for attribute, values in user.get("attributes", {}).items():
            change[attribute] = ldb.MessageElement(values, ldb.FLAG_MOD_REPLACE, attribute)
        if len(change):
            sam.modify(change)
    for name, group in given["groups"].items():
        if found(sam, name) is None:
            sam.newgroup(name, grouptype=group["type"])
    for name, group in given["groups"].items():
        members = [str(found(sam, member).dn) for member in group["members"]]
        change = ldb.Message(found(sam, name).dn)
        change["member"] = ldb.MessageElement(members, ldb.FLAG_MOD_ADD, "member")
        sam.modify(change)
    sam.transaction_commit()
    print(json.dumps({"users": sids(sam, given["users"]), "groups": sids(sam, given["groups"])}))


main()
