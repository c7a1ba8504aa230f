#!/usr/bin/python3
"""Tickets of a Samba domain for a service, made beside its controller: run it with `nsenter -t PID -n -m`.

    samba_kdc.py DC_FOLDER OUT_FOLDER DNS_DOMAIN ADDRESS GROUPS

Makes the account `svc-sso` with the name sso/srv.DNS_DOMAIN, the user `erika` in so many groups, and the service `svc-web`, which may
act for any user at sso/srv. Leaves in OUT_FOLDER the keytab of sso/srv (`keytab`), erika's cache with a ticket for it (`ccache`), and a
cache with the ticket that svc-web got for erika by S4U2Self and S4U2Proxy (`delegated`). The keytabs `machine.keytab` and `shared.keytab`
have the key of the machine account WEB01$ under one of its service names, and that of svc-sso under two. Prints erika's SID and those of
her groups, and the password of the users.
"""

import json
import os
import pathlib
import subprocess
import sys

import ldb
from samba import dckeytab, dsdb  # The first one gives Net its export_keytab.
from samba.auth import system_session
from samba.net import Net
from samba.param import LoadParm
from samba.samdb import SamDB

PASSWORD = "Fabrikam-user-1"
# AES-128 and AES-256: without it the KDC issues RC4 tickets.
AES = "24"


def main():
    folder, out, dns, address, count = sys.argv[1:]
    folder, out, count, realm = pathlib.Path(folder), pathlib.Path(out), int(count), dns.upper()
    smb_conf = folder / "etc" / "smb.conf"
    loaded = LoadParm()
    loaded.load(str(smb_conf))
    sam = SamDB(url=str(folder / "private" / "sam.ldb"), session_info=system_session(loaded), lp=loaded)
    base = sam.domain_dn()
    service, web = f"sso/srv.{dns}", f"web/front.{dns}"
    sam.transaction_start()
    for name in ("svc-sso", "svc-web", "erika"):
        sam.newuser(name, PASSWORD)
    alias, machine = f"sso/alias.{dns}", f"sso/web01.{dns}"
    change(sam, "svc-sso", {"servicePrincipalName": [service, alias], "msDS-SupportedEncryptionTypes": AES})
    change(sam, "WEB01$", {"servicePrincipalName": machine, "msDS-SupportedEncryptionTypes": AES})
    control = dsdb.UF_NORMAL_ACCOUNT | dsdb.UF_TRUSTED_TO_AUTHENTICATE_FOR_DELEGATION
    change(sam, "svc-web", {"servicePrincipalName": web, "msDS-SupportedEncryptionTypes": AES, "msDS-AllowedToDelegateTo": service,
                            "userAccountControl": str(control)})
    erika = dn(sam, "erika")
    for number in range(count):
        sam.add({"dn": f"CN=team-{number},CN=Users,{base}", "objectClass": "group", "sAMAccountName": f"team-{number}", "member": erika})
    sam.transaction_commit()

    (out / "krb5.conf").write_text(
        f"[libdefaults]\n default_realm = {realm}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n rdns = false\n"
        f" dns_canonicalize_hostname = false\n forwardable = true\n[realms]\n {realm} = {{\n kdc = {address}\n }}\n")
    for principal, keytab in ((service, "keytab"), ("svc-web", "web.keytab"), (machine, "machine.keytab"), (service, "shared.keytab"),
                              (alias, "shared.keytab")):
        Net(None, loaded).export_keytab(keytab=str(out / keytab), principal=principal)
    run(out, "ccache", "kinit", "erika", input=PASSWORD + "\n")
    run(out, "ccache", "kvno", f"{service}@{realm}")
    run(out, "delegated", "kinit", "-k", "-t", out / "web.keytab", "svc-web")
    run(out, "delegated", "kvno", "-k", out / "web.keytab", "-U", "erika", "-P", f"{service}@{realm}")

    groups = sam.search(erika, scope=ldb.SCOPE_BASE, attrs=["tokenGroups", "objectSid"])[0]
    sids = [sam.schema_format_value("objectSid", sid).decode() for sid in groups["tokenGroups"]]
    print(json.dumps({"sid": sam.schema_format_value("objectSid", groups["objectSid"][0]).decode(), "groups": " ".join(sids),
                      "password": PASSWORD}))


def dn(sam, name):
    return str(sam.search(sam.domain_dn(), expression=f"(sAMAccountName={name})")[0].dn)


def change(sam, name, values):
    message = ldb.Message(ldb.Dn(sam, dn(sam, name)))
    for key, value in values.items():
        message[key] = ldb.MessageElement(value, ldb.FLAG_MOD_REPLACE, key)
    sam.modify(message)


def run(out, cache, *command, **options):
    environment = dict(os.environ, KRB5_CONFIG=str(out / "krb5.conf"), KRB5CCNAME=str(out / cache))
    done = subprocess.run(list(map(str, command)), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=60, **options)
    if done.returncode != 0:
        sys.exit(f"samba_kdc: {' '.join(map(str, command))} failed with {done.returncode}\n{done.stdout}")


main()
