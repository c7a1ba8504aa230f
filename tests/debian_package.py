#!/usr/bin/env python3
"""Installs the Debian package in a chroot of its own, uses it, upgrades it, removes it, and purges it.

usage: debian_package.py PACKAGE NEWER_PACKAGE

Needs root, mmdebstrap, lintian, openssl and curl, and Debian's archive. Everything is on loopback, and the service is ended by
its pid. "On a server with the package", a section of docs/web-servers.md in the package, is done as printed, but for systemd.
"""

import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

# The site of the page.
SITE = "app.contoso.example"
# What package managers and this test write, whatever is installed.
NOT_COMPARED = re.compile(r"/(var/(log|cache|lib/(apt|dpkg|nginx|systemd/deb-systemd-\S*))|tmp|run|proc|sys|dev|etc/(\.pwd\.lock|(passwd|group|g?shadow)-?))(/|$)")


def say(text):
    print(f"package: {text}", flush=True)


def run(*command, code=0, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != code:
        sys.exit(f"{done.stdout}\npackage: {' '.join(map(str, command))} ended with {done.returncode}, not {code}")
    return done.stdout


class Chroot:
    def __init__(self, root):
        self.root = root
        # The package needs the libraries that it was built with.
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        say(f"making a chroot of {release}")
        run("mmdebstrap", "--variant=minbase", release, str(root))
        # The service reads its own limits and processes there.
        run("mount", "-t", "proc", "proc", str(root / "proc"))

    def run(self, *command, code=0):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        return run("chroot", str(self.root), *command, code=code, env=environment)

    def files(self):
        """Every path, and the users: what a purge has to give back."""
        paths = set()
        for folder, folders, files in os.walk(self.root):
            inside = folder.removeprefix(str(self.root)) + "/"
            folders[:] = [name for name in folders if not NOT_COMPARED.match(inside + name)]
            paths.update(inside + name for name in folders + files if not NOT_COMPARED.match(inside + name))
        users = {f"user {line.split(':')[0]}" for line in (self.root / "etc/passwd").read_text().splitlines()}
        return paths | users

    def install(self, package):
        shutil.copy(package, self.root / "tmp/rcmpd.deb")
        return self.run("dpkg", "--install", "/tmp/rcmpd.deb")

    def end(self):
        run("umount", str(self.root / "proc"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def configure(chroot):
    """As docs/install.md has it, from a demo domain: the configuration in /etc, and what changes in /var/lib."""
    as_user = ("runuser", "-u", "rcmpd", "--")
    chroot.run(*as_user, "rcmpd", "quickstart", "/var/lib/rcmpd/demo")
    demo, etc = chroot.root / "var/lib/rcmpd/demo", chroot.root / "etc/rcmpd"
    ports = {"11490": free_port(), "1135": free_port(), "9464": free_port()}
    text = (demo / "rcmpd.toml").read_text()
    for name in ("accounts.db", "accounts.key", "certs/", "machines/", "audit.log"):
        text = text.replace(name, f"/var/lib/rcmpd/demo/{name}")
    for old, new in ports.items():
        text = text.replace(f"127.0.0.1:{old}\"", f"127.0.0.1:{new}\"")
    (etc / "rcmpd.toml").write_text(text)
    shutil.chown(etc / "rcmpd.toml", 0, (etc.stat().st_gid))
    (etc / "rcmpd.toml").chmod(0o640)
    return ports["9464"]


def serve(chroot, admin):
    """Starts the service by the command line of its unit, as its user."""
    unit = (chroot.root / "usr/lib/systemd/system/rcmpd.service").read_text()
    line = re.search(r"(?m)^ExecStart=(.+)$", unit).group(1).split()
    log = open(chroot.root / "tmp/rcmpd.log", "wb")
    line = ["chroot", "--userspec=rcmpd:rcmpd", str(chroot.root), *line]
    child = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=5) as answer:
                if answer.status == 200:
                    return child
        except OSError:
            pass
        if child.poll() is not None:
            break
        time.sleep(0.1)
    child.kill()
    child.wait()
    sys.exit(f"package: the service is not ready:\n{(chroot.root / 'tmp/rcmpd.log').read_text()}")


def end(child):
    child.send_signal(signal.SIGTERM)
    if child.wait(60) != 0:
        sys.exit(f"package: the service ended with {child.returncode}")


def issue(folder):
    """What the section has in its folder, made by OpenSSL: a CA of cards, two cards, and a certificate of the site."""
    def openssl(*arguments):
        run("openssl", *arguments, cwd=folder)

    def key(name, *more):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", f"{name}.key",
                "-out", f"{name}.pem", *more)

    key("client-ca", "-subj", "/O=Contoso/CN=Card CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
    for name in ("alice", "mallory"):
        key(name, "-CA", "client-ca.pem", "-CAkey", "client-ca.key", "-subj", f"/CN={name}", *leaf, "-addext", "extendedKeyUsage=clientAuth")
    key("site", "-subj", f"/CN={SITE}", *leaf, "-addext", f"subjectAltName=DNS:{SITE}")


def stranger(chroot):
    """Does what the page says, with free ports of the loopback address. What systemd does is done here."""
    page = (chroot.root / "usr/share/doc/rcmpd/docs/web-servers.md").read_text()
    section = page.split("## nginx and smart cards on Debian, step by step\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.+?)```", section, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    web, rpc, application = free_port(), free_port(), free_port()
    changes = {"--site app.contoso.example": f"--site {SITE} --listen 127.0.0.1:{web}", "127.0.0.1:8080": f"127.0.0.1:{application}",
               "--role server": f"--role server --listen 127.0.0.1:{rpc}", "apt install nginx": "true"}
    for old, new in changes.items():
        if not any(old in line for line in lines):
            sys.exit(f"package: {old} is not in the section")
        lines = [line.replace(old, new) for line in lines]
    if not all(line.startswith("# ") for line in lines) or sum("systemctl" in line for line in lines) != 2:
        sys.exit(f"package: the section has other steps: {lines}")
    script = "\n".join(line.removeprefix("# ") for line in lines)
    first, start, then, reload = re.split(r"(?m)^(.*systemctl.*)$\n?", script)[:4]
    environment = "export RCMPD_CONFIG=/etc/rcmpd/rcmpd.toml\n"
    home = chroot.root / "root"
    issue(home)
    said = chroot.run("bash", "-euc", f"cd /root\n{first}")
    if not re.search(r"alice .*mapped by", said) or not start.endswith("systemctl enable --now rcmpd"):
        sys.exit(f"package: the card is not mapped:\n{said}")
    drop_in = (chroot.root / "etc/systemd/system/rcmpd.service.d/nginx.conf").read_text()
    group = re.fullmatch(r"\[Service\]\nSupplementaryGroups=(.+)\n", drop_in).group(1)
    chroot.run("install", "-d", "-m", "755", "-o", "rcmpd", "-g", "rcmpd", "/run/rcmpd")
    log = open(chroot.root / "tmp/stranger.log", "wb")
    inside = ["chroot", f"--userspec=rcmpd:rcmpd", f"--groups={group}", str(chroot.root)]
    service = [*inside, "/usr/bin/rcmpd", "serve", "-c", "/etc/rcmpd/rcmpd.toml"]
    page = [*inside, "/usr/bin/rcmpd", "page", "--listen", f"127.0.0.1:{application}"]
    children = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) for command in (service, page)]
    try:
        for _ in range(600):
            if (chroot.root / "run/rcmpd/nginx.sock").exists():
                break
            time.sleep(0.1)
        # Debian's own site is at port 80 of all addresses.
        (chroot.root / "etc/nginx/sites-enabled/default").unlink()
        chroot.run("bash", "-euc", f"cd /root\n{environment}{then}\n{reload.split(' && ')[0]}\nnginx")
        for who, code, expected in (("alice", "200", "Alice Adams"), ("mallory", "403", ""), (None, "401", "")):
            shown = ["--cert", f"{home}/{who}.pem", "--key", f"{home}/{who}.key"] if who else []
            said = run("curl", "-sS", "--retry", "9", "--retry-connrefused", "--cacert", f"{home}/site.pem", "--resolve", f"{SITE}:{web}:127.0.0.1",
                       "-w", "%{http_code}", *shown, f"https://{SITE}:{web}/")
            if not said.endswith(code) or expected not in said:
                sys.exit(f"package: {who} is answered:\n{said}\n{(chroot.root / 'tmp/stranger.log').read_text()}")
        report = chroot.run("runuser", "-u", "rcmpd", "--", "rcmpd", "doctor", "-c", "/etc/rcmpd/rcmpd.toml")
        if "error" in report:
            sys.exit(report)
    finally:
        nginx = chroot.root / "run/nginx.pid"
        if nginx.exists() and nginx.read_text().strip():
            os.kill(int(nginx.read_text()), signal.SIGTERM)
        for child in children:
            child.terminate()
            child.wait()
    # What the section made beside the package's folders, and what the next steps make anew.
    made = ("etc/nginx/conf.d/app.conf", "etc/nginx/site.pem", "etc/nginx/site.key", "etc/systemd/system/rcmpd.service.d/nginx.conf")
    for path in [*(chroot.root / name for name in made), *home.glob("*.pem"), *home.glob("*.key")]:
        path.unlink()
    for name in ("rcmpd.service.d", ".", ".."):
        folder = chroot.root / "etc/systemd/system" / name
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    for folder in ("etc/rcmpd", "var/lib/rcmpd"):
        for path in (chroot.root / folder).iterdir():
            path.unlink()


def ask(chroot):
    said = chroot.run("rcmpd", "map", "/var/lib/rcmpd/demo/certs/alice.pem", "-c", "/etc/rcmpd/rcmpd.toml")
    if "CONTOSO\\alice" not in said:
        sys.exit(f"package: alice is not known:\n{said}")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    package, newer = map(pathlib.Path, sys.argv[1:])
    say("lintian")
    # The address in the package is that of the person who builds it.
    whose = "--suppress-tags=root-in-contact,bogus-mail-host,bogus-mail-host-in-debian-changelog"
    run("lintian", "--fail-on", "error", whose, str(package), *(["--allow-root"] if os.geteuid() == 0 else []))
    with tempfile.TemporaryDirectory() as folder:
        chroot, child = Chroot(pathlib.Path(folder) / "root"), None
        try:
            # No program that is installed is started.
            (chroot.root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
            (chroot.root / "usr/sbin/policy-rc.d").chmod(0o755)
            chroot.run("apt-get", "update")
            chroot.run("apt-get", "install", "-y", "--no-install-recommends", "adduser", "nginx-light")
            before = chroot.files()
            say("install")
            said = chroot.install(package)
            if "systemctl enable --now rcmpd" not in said:
                sys.exit(f"package: no next step is said:\n{said}")
            say("nginx with smart cards, as the page says")
            stranger(chroot)
            admin = configure(chroot)
            child = serve(chroot, admin)
            say("doctor")
            report = chroot.run("rcmpd", "doctor", "-c", "/etc/rcmpd/rcmpd.toml")
            if "error" in report:
                sys.exit(report)
            ask(chroot)
            say("upgrade")
            chroot.install(newer)
            end(child)
            child = serve(chroot, admin)
            ask(chroot)
            end(child)
            say("remove")
            chroot.run("dpkg", "--remove", "rcmpd")
            for kept in ("etc/rcmpd/rcmpd.toml", "var/lib/rcmpd/demo/accounts.db", "etc/logrotate.d/rcmpd"):
                if not (chroot.root / kept).is_file():
                    sys.exit(f"package: {kept} went with a removal")
            say("purge")
            chroot.run("dpkg", "--purge", "rcmpd")
            left = chroot.files() - before
            if left:
                sys.exit("package: left behind: " + ", ".join(sorted(left)))
        finally:
            if child and child.poll() is None:
                child.kill()
                child.wait()
            chroot.end()
    say("installed, used, upgraded, removed and purged; nothing is left behind")


main()
