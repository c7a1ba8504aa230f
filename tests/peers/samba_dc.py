#!/usr/bin/env python3
"""A Samba AD DC of its own: provisioned, started in new network, mount and process namespaces, gone when standard input closes.

    samba_dc.py [--cache DIR] [--folder DIR]

Prints one JSON line when the DC answers, and ends itself and every process of the DC at end of file on standard input:

    {"pid": 4711, "address": "127.0.0.10", "port": 49200, "netbios": "FABRIKAM", "dns": "fabrikam.example", "server": "FABDC1",
     "sid": "S-1-5-21-...", "site": "Default-First-Site-Name", "machines": {"WEB01$": "password", ...}, "servers": {"FABDC9$": "password"},
     "users": {"nora": "password", ...}, "group": "S-1-5-21-...",
     "trusts": {"CONTOSO": {"dns": "contoso.example", "sid": "S-1-5-21-...", "account": "CONTOSO$", "secret": "...", "previous": "..."}},
     "krbtgt_aes256": "hex", "folder": "...", "version": "4.17.12-Debian"}

`nsenter -t PID -n -m -- COMMAND` runs a command beside it. The fixed ports 88, 135, 389, 636 and 3268 are free in there, whatever the
machine serves outside. A provisioned domain is kept in the cache, keyed by Samba's version and this script, and copied for each run:
the first start takes about twenty seconds, later ones a few.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve()
NETBIOS, DNS, SERVER, ADDRESS, PORT = "FABRIKAM", "fabrikam.example", "FABDC1", "127.0.0.10", 49200
# One account per parallel channel set-up: this DC drops an account's earlier channel when a new one is made.
MACHINES = {f"WEB{number:02}$": f"Fabrikam-machine-{number:02}-secret" for number in range(1, 9)}
# Accounts of its own domain's other controllers, which ask as servers (channel type 6).
SERVERS = {"FABDC9$": "Fabrikam-server-09-secret"}
# Domains that trust it, whose controllers ask over the trust (types 3 and 4). The account and the trustedDomain object both know the
# secret: Samba looks for the one, and takes the other's.
TRUSTS = {"CONTOSO": {"dns": "contoso.example", "sid": "S-1-5-21-1004336348-1177238915-682003330", "account": "CONTOSO$",
                      "secret": "Fabrikam-trusted-by-contoso-secret", "previous": "Fabrikam-trusted-by-contoso-before"}}
# People, and what is special about each.
USERS = {"nora": "Nora-password-1", "nils": "Nils-password-1", "olga": "Olga-password-1"}
DISABLED, EXPIRED, GROUP, MEMBER = "nils", "olga", "Secret Keepers", "nora"
SITE = "Default-First-Site-Name"
STEP_SECONDS = 120
READY_SECONDS = 60


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    private = os.environ.get("RCMPD_PRIVATE") or HERE.parent.parent.parent / "target" / "private"
    arguments.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(private).absolute() / "samba-dc")
    arguments.add_argument("--folder", type=pathlib.Path, help="where the running DC lives; a temporary folder by default")
    # The second stage: this same script, already inside the namespaces.
    arguments.add_argument("--inside", choices=("provision", "serve"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.inside == "provision":
        enter(given.folder)
        provision(given.folder)
    elif given.inside == "serve":
        enter(given.folder)
        serve(given.folder)
    else:
        with tempfile.TemporaryDirectory(prefix="samba-dc-") as temporary:
            # A signal must unwind, or the namespaces outlive us.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            run(given.folder or pathlib.Path(temporary) / "dc", given.cache)


def say(text):
    print(f"samba_dc: {text}", file=sys.stderr, flush=True)


def call(*command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=STEP_SECONDS, **options)
    if done.returncode != 0:
        sys.exit(f"samba_dc: {' '.join(map(str, command))} failed with {done.returncode}\n{done.stdout}")
    return done.stdout


# Outside the namespaces.

def run(folder, cache):
    version = call("samba", "--version").split()[-1]
    key = hashlib.sha256(version.encode() + HERE.read_bytes()).hexdigest()[:16]
    kept = cache / key
    if not (kept / "facts.json").is_file():
        fill(cache, kept)
    # Database pages are copied sparse, or a DC of 4 MB takes 60.
    call("cp", "-a", "--sparse=always", kept, folder)
    process = inside("serve", folder, stdout=subprocess.PIPE, start_new_session=True)
    try:
        ready = process.stdout.readline()
        if not ready:
            log = folder / "log" / "samba.log"
            sys.exit(f"samba_dc: the DC did not start\n{log.read_text()[-4000:] if log.is_file() else ''}")
        facts = json.loads((kept / "facts.json").read_text())
        print(json.dumps({"pid": first_child(process.pid), "folder": str(folder), "version": version, **facts}), flush=True)
        sys.stdin.buffer.read()
    finally:
        # `--kill-child` ends the first process of the PID namespace with this one, and that ends all the others.
        process.kill()
        process.wait()


def fill(cache, kept):
    say(f"provisioning {NETBIOS} into {kept}, about twenty seconds, once")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as temporary:
        new = pathlib.Path(temporary) / "dc"
        new.mkdir()
        process = inside("provision", new)
        if process.wait(timeout=3 * STEP_SECONDS) != 0:
            sys.exit(f"samba_dc: provisioning failed with {process.returncode}")
        try:
            new.rename(kept)
        except OSError:
            # Another run filled the cache meanwhile; both are equally good.
            if not (kept / "facts.json").is_file():
                raise


def inside(stage, folder, **options):
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        namespaces += ["--user", "--map-root-user"]
    # Samba's bindings belong to Debian's interpreter.
    return subprocess.Popen([*namespaces, "/usr/bin/python3", HERE, "--inside", stage, "--folder", folder],
                            stdin=subprocess.DEVNULL, **options)


def first_child(pid):
    """The namespaces' first process, seen from outside."""
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


# Inside the namespaces.

def enter(folder):
    """Loopback up, and Samba's compiled-in runtime folder and the machine's names are ours alone."""
    call("ip", "link", "set", "lo", "up")
    for path in ("/run/samba", "/etc/samba"):
        os.makedirs(path, exist_ok=True)
        call("mount", "-t", "tmpfs", "tmpfs", path)
    names = folder / "hosts"
    names.write_text(f"127.0.0.1 localhost\n{ADDRESS} {SERVER.lower()}.{DNS} {SERVER.lower()} {DNS}\n")
    call("mount", "--bind", names, "/etc/hosts")


def configuration(folder):
    """The place changes from run to run, so the configuration is written anew each time."""
    lines = {
        "netbios name": SERVER, "realm": DNS.upper(), "workgroup": NETBIOS, "server role": "active directory domain controller",
        "interfaces": f"{ADDRESS}/8", "bind interfaces only": "yes", "server services": "rpc, ldap, cldap, kdc, dns",
        "dns forwarder": "none", "dns update command": "/bin/true", "spn update command": "/bin/true", "gpo update command": "/bin/true",
        "rpc server port:netlogon": PORT, "rpc server port": PORT + 1,
        "private dir": folder / "private", "state directory": folder / "state", "cache directory": folder / "state",
        "lock directory": folder / "state", "pid directory": folder / "run", "ncalrpc dir": folder / "run" / "ncalrpc",
        "ntp signd socket directory": folder / "run" / "ntp_signd", "winbindd socket directory": "/run/samba/winbindd",
        "binddns dir": folder / "state", "log file": folder / "log" / "samba.log", "logging": "file", "log level": 1,
        "tls enabled": "yes", "tls keyfile": folder / "private" / "tls" / "key.pem", "tls certfile": folder / "private" / "tls" / "cert.pem",
        "tls cafile": folder / "private" / "tls" / "ca.pem",
    }
    for name in ("etc", "run/ncalrpc", "run/ntp_signd", "log", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "run/ntp_signd").chmod(0o750)
    path = folder / "etc" / "smb.conf"
    path.write_text("[global]\n" + "".join(f"  {key} = {value}\n" for key, value in lines.items()))
    return path


def provision(folder):
    call("samba-tool", "domain", "provision", "--server-role=dc", f"--realm={DNS.upper()}", f"--domain={NETBIOS}",
         "--adminpass=Fabrikam-admin-1", f"--host-name={SERVER.lower()}", f"--host-ip={ADDRESS}", "--dns-backend=SAMBA_INTERNAL",
         f"--targetdir={folder}", f"--option=interfaces={ADDRESS}/8",
         "--option=bind interfaces only=yes")
    smb_conf = configuration(folder)
    tls = folder / "private" / "tls"
    shutil.rmtree(tls, ignore_errors=True)
    tls.mkdir(mode=0o700)
    # Samba's own certificate has an RSA-4096 key and no subjectAltName. Others refuse a CA's certificate as that of a server.
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    call("openssl", "req", "-x509", *key, "-days", "3650", "-subj", f"/CN={NETBIOS} Directory CA", "-keyout", tls / "ca.key",
         "-out", tls / "ca.pem")
    call("openssl", "req", *key, "-subj", f"/CN={SERVER.lower()}.{DNS}", "-keyout", tls / "key.pem", "-out", tls / "server.csr")
    (tls / "server.cnf").write_text(f"basicConstraints=CA:FALSE\nsubjectAltName=DNS:{SERVER.lower()}.{DNS},IP:{ADDRESS}\n")
    call("openssl", "x509", "-req", "-in", tls / "server.csr", "-CA", tls / "ca.pem", "-CAkey", tls / "ca.key", "-CAcreateserial",
         "-days", "3650", "-extfile", tls / "server.cnf", "-out", tls / "cert.pem")
    (tls / "key.pem").chmod(0o600)
    # Samba's bindings belong inside: outside, any interpreter will do.
    from samba.auth import system_session
    from samba.param import LoadParm
    from samba.samdb import SamDB
    loaded = LoadParm()
    loaded.load(str(smb_conf))
    sam = SamDB(url=str(folder / "private" / "sam.ldb"), session_info=system_session(loaded), lp=loaded)
    for name, password in {**MACHINES, **SERVERS}.items():
        sam.newcomputer(name.rstrip("$"))
        sam.setpassword(f"(sAMAccountName={name})", password, False)
    for name in SERVERS:
        make_server(sam, name)
    for name, password in USERS.items():
        sam.newuser(name, password)
    sam.disable_account(f"(sAMAccountName={DISABLED})")
    # In seconds from now.
    sam.setexpiry(f"(sAMAccountName={EXPIRED})", -86400)
    sam.newgroup(GROUP)
    sam.add_remove_group_members(GROUP, [MEMBER])
    group = sam.search(sam.domain_dn(), expression=f"(sAMAccountName={GROUP})", attrs=["objectSid"])[0]
    for name, trust in TRUSTS.items():
        make_trust(sam, name, trust)
    keytab = folder / "krbtgt.keytab"
    call("samba-tool", "domain", "exportkeytab", keytab, f"--principal=krbtgt@{DNS.upper()}", "-s", smb_conf)
    (folder / "facts.json").write_text(json.dumps({
        "address": ADDRESS, "port": PORT, "netbios": NETBIOS, "dns": DNS, "server": SERVER, "sid": sam.get_domain_sid(),
        "site": SITE, "machines": MACHINES, "servers": SERVERS, "trusts": TRUSTS, "users": USERS,
        "group": sam.schema_format_value("objectSid", group["objectSid"][0]).decode(),
        "krbtgt_aes256": aes256_key(keytab.read_bytes()).hex()}))


def make_server(sam, name):
    """A computer becomes a domain controller's account."""
    import ldb
    from samba import dsdb
    change = ldb.Message(sam.search(sam.domain_dn(), expression=f"(sAMAccountName={name})")[0].dn)
    control = dsdb.UF_SERVER_TRUST_ACCOUNT | dsdb.UF_TRUSTED_FOR_DELEGATION
    change["control"] = ldb.MessageElement(str(control), ldb.FLAG_MOD_REPLACE, "userAccountControl")
    sam.modify(change)


def make_trust(sam, name, trust):
    """A domain that trusts this one: its object and its account, as LsarCreateTrustedDomainEx2 makes them."""
    from samba import dsdb
    from samba.dcerpc import drsblobs, lsa, security
    from samba.ndr import ndr_pack
    incoming = drsblobs.trustAuthInOutBlob()
    incoming.count, incoming.current, incoming.previous = 1, clear_secret(trust["secret"]), clear_secret(trust["previous"])
    base = sam.domain_dn()
    sam.add({"dn": f"CN={trust['dns']},CN=System,{base}", "objectClass": "trustedDomain", "flatName": name, "trustPartner": trust["dns"],
             "trustType": str(lsa.LSA_TRUST_TYPE_UPLEVEL), "trustDirection": str(lsa.LSA_TRUST_DIRECTION_INBOUND), "trustAttributes": "0",
             "securityIdentifier": ndr_pack(security.dom_sid(trust["sid"])), "trustAuthIncoming": ndr_pack(incoming)})
    sam.add({"dn": f"CN={trust['account']},CN=Users,{base}", "objectClass": "user", "sAMAccountName": trust["account"],
             "userAccountControl": str(dsdb.UF_INTERDOMAIN_TRUST_ACCOUNT), "clearTextPassword": trust["secret"].encode("utf-16-le")},
            controls=[f"local_oid:{dsdb.DSDB_CONTROL_PERMIT_INTERDOMAIN_TRUST_UAC_OID}:0"])


def clear_secret(secret):
    """An AuthenticationInformationArray of one password."""
    import samba
    from samba.dcerpc import drsblobs, lsa
    array, information, clear = drsblobs.AuthenticationInformationArray(), drsblobs.AuthenticationInformation(), drsblobs.AuthInfoClear()
    octets = list(secret.encode("utf-16-le"))
    clear.size, clear.password = len(octets), octets
    information.LastUpdateTime = samba.unix2nttime(samba.current_unix_time())
    information.AuthType, information.AuthInfo = lsa.TRUST_AUTH_TYPE_CLEAR, clear
    array.count, array.array = 1, [information]
    return array


def aes256_key(keytab):
    """The key of encryption type 18 in an MIT keytab of version 5.2."""
    at = 2
    while at < len(keytab):
        size = int.from_bytes(keytab[at:at + 4], "big", signed=True)
        entry, at = keytab[at + 4:at + 4 + abs(size)], at + 4 + abs(size)
        if size < 0:
            continue
        place = 2
        for _ in range(int.from_bytes(entry[:2], "big") + 1):  # realm, then the components
            place += 2 + int.from_bytes(entry[place:place + 2], "big")
        place += 4 + 4 + 1  # name type, time, version
        kind, length = int.from_bytes(entry[place:place + 2], "big"), int.from_bytes(entry[place + 2:place + 4], "big")
        if kind == 18:
            return entry[place + 4:place + 4 + length]
    sys.exit("samba_dc: krbtgt has no AES-256 key")


def serve(folder):
    """Becomes the namespace's first process: starts samba, says when it is ready, and reaps what it leaves."""
    smb_conf = configuration(folder)
    process = subprocess.Popen(["samba", "-F", "--no-process-group", "-M", "prefork", "-s", smb_conf],
                               stdin=subprocess.DEVNULL, stdout=(folder / "log" / "stdout.log").open("w"), stderr=subprocess.STDOUT)
    deadline = time.monotonic() + READY_SECONDS
    waiting = [PORT, 88, 389]
    while waiting:
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"samba_dc: samba said\n{(folder / 'log' / 'stdout.log').read_text()[-4000:]}")
        with socket.socket() as probe:
            if probe.connect_ex((ADDRESS, waiting[0])) == 0:
                waiting.pop(0)
                continue
        time.sleep(0.05)
    print("ready", flush=True)
    while True:
        pid, _ = os.wait()
        if pid == process.pid:
            sys.exit("samba_dc: samba ended")


main()
