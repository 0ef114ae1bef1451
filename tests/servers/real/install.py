"""Servers from Debian, PyPI, npm and crates.io, for the rows that are not in --quick.

Services are never started: what a row needs is a program, not the distribution's daemon. What cannot be installed is
missing, and its rows are reported as skipped.
"""

import os
import pathlib
import shutil
import subprocess

APPS = pathlib.Path(__file__).resolve().parent / "apps"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or pathlib.Path(__file__).resolve().parents[3] / "target")
VENV = TARGET / "servers/venv"
NODE = TARGET / "servers/node"
RUST = TARGET / "servers/rust"

DEBIAN = """
    nginx-light haproxy apache2-bin caddy php-cli php-fpm puma unicorn ruby-railties ruby-webrick starman
    libmojolicious-perl golang-go default-jdk-headless tomcat10-user erlang-base redis-server dnsmasq-base unbound
    uwsgi-core uwsgi-plugin-python3 gcc libc6-dev python3-venv
""".split()
PYPI = "gunicorn sanic uvicorn uvicorn-worker hypercorn granian waitress flask django websockets grpcio".split()
NPM = "express fastify ws vite tsx pm2 get-port-please detect-port portfinder".split()


def everything():
    if os.geteuid() == 0 and shutil.which("apt-get"):
        debian()
    if not (VENV / "bin/python").exists():
        run(["python3", "-m", "venv", str(VENV)])
    run([str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *PYPI])
    NODE.mkdir(parents=True, exist_ok=True)
    run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(NODE), *NPM])
    # Built elsewhere, since cargo writes its lock file beside the sources: these are to be the newest.
    shutil.copytree(APPS / "rust", RUST, dirs_exist_ok=True)
    run(["cargo", "build", "--quiet", "--target-dir", str(RUST / "target")], cwd=RUST)


def debian():
    """Asks for one after the other if they cannot all be had, so that one missing package costs one server."""
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # One from elsewhere may refuse to live beside Debian's.
    packages = DEBIAN if shutil.which("npm") else [*DEBIAN, "nodejs", "npm"]
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    try:
        if not run([*command, *packages], env=environment):
            run(["apt-get", "update", "-qq"], env=environment)
            if not run([*command, *packages], env=environment):
                for package in packages:
                    run([*command, package], env=environment)
    finally:
        if ours:
            policy.unlink()


def run(command, **options):
    """Whether it went well; what it says is only of interest if it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}")
        return False
    if done.returncode:
        print(f"{' '.join(command[:3])} ... ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.returncode == 0
