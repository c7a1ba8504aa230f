#!/usr/bin/env python3
"""Installs the Debian package in a chroot of its own, uses it, upgrades it, removes it, and purges it.

usage: debian_package.py PACKAGE NEWER_PACKAGE

Needs root, mmdebstrap and lintian, and Debian's archive. Everything is on loopback, and the service is ended by its pid.
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

# What package managers and this test write, whatever is installed.
NOT_COMPARED = re.compile(r"/(var/(log|cache|lib/(apt|dpkg|systemd/deb-systemd-\S*))|tmp|run|proc|sys|dev|etc/(\.pwd\.lock|(passwd|group|g?shadow)-?))(/|$)")


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
            chroot.run("apt-get", "install", "-y", "--no-install-recommends", "adduser")
            before = chroot.files()
            say("install")
            said = chroot.install(package)
            if "systemctl enable --now rcmpd" not in said:
                sys.exit(f"package: no next step is said:\n{said}")
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
