#!/usr/bin/env python3
"""Runs deploy/compose in real containers, with Podman and docker-compose: the image that `make image` wrote, and nginx of Debian.

usage: containers.py LAYOUT PROGRAM

Needs root, Debian's packages podman, crun, netavark, aardvark-dns, iptables, docker-compose, mmdebstrap and curl, and Debian's
archive. PROGRAM writes the configuration. The test has a mount namespace with an empty tree of control groups, because Podman's
runtime rejects the mixed tree that some machines have, and a network namespace, so that ports are free and no address of the
machine is used. The collector is left out: its image is in no archive of packages.
"""

import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

COMPOSE = pathlib.Path(__file__).resolve().parent.parent / "deploy/compose"
SERVICES = ("rcmpd", "application", "web-server")
STORAGE = """[storage]
driver = "vfs"
runroot = "{folder}/run"
graphroot = "{folder}/graph"
"""
CONTAINERS = """[containers]
cgroups = "disabled"
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


def say(text):
    print(f"containers: {text}", flush=True)


def run(*command, code=0, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if code is not None and done.returncode != code:
        sys.exit(f"{done.stdout}\ncontainers: {' '.join(map(str, command))} ended with {done.returncode}, not {code}")
    return done.stdout


def isolate():
    """Prepares the mounts and the network of this process, which are its own."""
    run("umount", "-R", "-l", "/sys/fs/cgroup", code=None)
    run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
    run("ip", "link", "set", "lo", "up")


def images(folder, layout):
    """The image of rcmpd as it is, and one of Debian's nginx that is called as the official one."""
    run("podman", "pull", "--quiet", f"oci:{layout}")
    image = run("podman", "images", "--quiet").split()[0]
    run("podman", "tag", image, "docker.io/library/rcmpd:latest")
    root = folder / "nginx.tar"
    run("podman", "import", "--quiet", "--change", 'CMD ["nginx","-g","daemon off;"]', str(root), "docker.io/library/nginx:1.28")


def ask(site, who):
    curl = ["curl", "-sS", "--max-time", "20", "--cacert", f"{site}/nginx/ca.pem", "-w", "\n%{http_code}"]
    if who:
        curl += ["--cert", f"{site}/people/{who}.pem", "--key", f"{site}/people/{who}.key"]
    body, code = run(*curl, "https://localhost:8443/", code=None).rsplit("\n", 1)
    return code, body


def container(service):
    for separator in "_-":
        name = f"smoke{separator}{service}{separator}1"
        if run("podman", "ps", "--all", "--quiet", "--filter", f"name=^{name}$").strip():
            return name
    sys.exit(f"containers: there is no container of {service}")


def check(site):
    deadline = time.monotonic() + 120
    while (first := ask(site, "alice"))[0] != "200":
        if time.monotonic() > deadline:
            logs = "".join(run("podman", "logs", container(service), code=None) for service in SERVICES)
            sys.exit(f"{logs}\ncontainers: alice is answered {first}")
        time.sleep(1)
    if '["Remote-User","CONTOSO\\\\alice"]' not in first[1]:
        sys.exit(f"containers: alice is not named: {first[1]}")
    for who, expected in (("mallory", "403"), (None, "401")):
        code, body = ask(site, who)
        if code != expected:
            sys.exit(f"containers: {who} is answered {code}, not {expected}: {body}")
    run("podman", "healthcheck", "run", container("rcmpd"))
    users = {"rcmpd": "65532 65532", "web-server": "101 65532", "application": "65532 65532"}
    for service, user in users.items():
        process = run("podman", "inspect", "--format", "{{.State.Pid}}", container(service)).strip()
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        field = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
        if f"{field['Uid'][0]} {field['Gid'][0]}" != user or int(field["CapEff"][0], 16) or field["NoNewPrivs"] != ["1"]:
            sys.exit(f"containers: {service} has other rights than it needs:\n{status}")


def inside(folder, layout, program):
    """What has to be in the namespaces."""
    isolate()
    site = folder / "site"
    (folder / "networks").mkdir()
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
    (folder / "containers.conf").write_text(CONTAINERS.format(folder=folder))
    os.environ |= {"CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf", "CONTAINERS_CONF": f"{folder}/containers.conf",
                   "DOCKER_HOST": f"unix://{folder}/podman.sock", "SITE": str(site), "OTLP_BACKEND": "backend.example:4317",
                   "RCMPD_IMAGE": "docker.io/library/rcmpd:latest"}
    images(folder, layout)
    run(str(COMPOSE / "prepare"), str(site), env={**os.environ, "RCMPD": str(program)})
    compose = ("docker-compose", "-f", str(COMPOSE / "compose.yaml"), "-p", "smoke")
    service = subprocess.Popen(("podman", "system", "service", "--time", "0", os.environ["DOCKER_HOST"]), stderr=subprocess.DEVNULL)
    try:
        while not (folder / "podman.sock").exists():
            time.sleep(0.1)
        say("starting them")
        run(*compose, "up", "-d", *SERVICES)
        check(site)
    finally:
        run(*compose, "down", "--volumes", code=None)
        service.terminate()
        service.wait()
        run("podman", "system", "reset", "--force", code=None)
    say("nginx, rcmpd and the application ran in containers: alice was let in, mallory was not")


def main():
    if sys.argv[1:2] == ["inside"]:
        return inside(*map(pathlib.Path, sys.argv[2:]))
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    files = [os.path.abspath(name) for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        say("making an image of nginx")
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        run("mmdebstrap", "--variant=minbase", "--include=nginx-light", release, f"{folder}/nginx.tar")
        done = subprocess.run(["unshare", "--mount", "--net", sys.executable, __file__, "inside", folder, *files])
    sys.exit(done.returncode)


main()
