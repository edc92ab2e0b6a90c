"""The programs: how each is configured for two resolvers over authenticated TLS, started and ended.

Each gets both servers with name and CA, a UDP listener, and otherwise what it does by itself; where something was set
beyond that, the reason stands beside it.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import client

# how long a program may take to answer its first query
START_LIMIT = 15.0


class Missing(Exception):
    """A program that is not there."""


class Place:
    """Where a program and its files are: on this machine, or in the root of another Debian."""

    def __init__(self, root, folder):
        self.root = root
        self.folder = folder
        # as the program sees it
        self.inside = Path("/") / folder.relative_to(root) if root else folder

    def find(self, program):
        for folder in ("usr/sbin", "usr/bin", "usr/local/sbin", "usr/local/bin"):
            path = (self.root or Path("/")) / folder / program
            if path.exists():
                return str(Path("/") / folder / program)
        raise Missing(program)

    def command(self, arguments):
        return (["chroot", str(self.root)] if self.root else []) + arguments


def free_port():
    """A port that was free for UDP and TCP a moment ago."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            try:
                tcp.bind(udp.getsockname())
            except OSError:
                continue
            return udp.getsockname()[1]


def dot_proxy(place, port, upstream, settings, more=""):
    servers = ", ".join(f'"{address}:{at}#{upstream.name}"' for address, at in upstream.servers)
    text = f"""[listen]
addresses = ["127.0.0.1:{port}"]
[upstream]
servers = [{servers}]
ca-file = "{place.inside}/ca.pem"
{more}
[log]
level = "{settings.log_level}"
"""
    (place.folder / "dot-proxy.toml").write_text(text)
    return [settings.dot_proxy, "--config", f"{place.inside}/dot-proxy.toml"]


def dot_proxy_parallel(place, port, upstream, settings):
    # asks both servers everything, as smartdns does by itself
    return dot_proxy(place, port, upstream, settings, 'policy = "parallel"')


def unbound(place, port, upstream, _):
    servers = "\n".join(f"  forward-addr: {address}@{at}#{upstream.name}" for address, at in upstream.servers)
    # iterator: to forward, not to validate; the rest lets it run in the foreground without a folder of its own
    text = f"""server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  do-not-query-localhost: no
  tls-cert-bundle: {place.inside}/ca.pem
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-tls-upstream: yes
{servers}
"""
    (place.folder / "unbound.conf").write_text(text)
    return [place.find("unbound"), "-d", "-c", f"{place.inside}/unbound.conf"]


def dnsdist(place, port, upstream, _, more=""):
    # lazy: its usual health checks make a connection to each server every second, which would count as handshakes
    servers = "\n".join(
        f'newServer{{address="{address}:{at}", tls="openssl", subjectName="{upstream.name}", '
        f'caStore="{place.inside}/ca.pem", validateCertificates=true, healthCheckMode="lazy"{more}}}'
        for address, at in upstream.servers
    )
    (place.folder / "dnsdist.conf").write_text(
        f'setSecurityPollSuffix("")\nsetLocal("127.0.0.1:{port}")\n{servers}\n'
    )
    return [place.find("dnsdist"), "--supervised", "--disable-syslog", "-C", f"{place.inside}/dnsdist.conf"]


def dnsdist_pipelined(place, port, upstream, settings):
    # by itself it has one query at a time on a connection: robust against silence, and slow where handshakes take time
    return dnsdist(place, port, upstream, settings, ", maxInFlight=1000")


def stubby(place, port, upstream, _):
    servers = "\n".join(
        f'  - address_data: {address}\n    tls_port: {at}\n    tls_auth_name: "{upstream.name}"'
        for address, at in upstream.servers
    )
    # round robin and the idle time-out as in the file that it is shipped with
    text = f"""resolution_type: GETDNS_RESOLUTION_STUB
dns_transport_list:
  - GETDNS_TRANSPORT_TLS
tls_authentication: GETDNS_AUTHENTICATION_REQUIRED
tls_ca_file: "{place.inside}/ca.pem"
tls_query_padding_blocksize: 128
idle_timeout: 10000
round_robin_upstreams: 1
listen_addresses:
  - 127.0.0.1@{port}
upstream_recursive_servers:
{servers}
"""
    (place.folder / "stubby.yml").write_text(text)
    return [place.find("stubby"), "-C", f"{place.inside}/stubby.yml"]


def knot_resolver(place, port, upstream, _):
    servers = ", ".join(
        f"{{'{address}@{at}', hostname='{upstream.name}', ca_file='{place.inside}/ca.pem'}}"
        for address, at in upstream.servers
    )
    # without the modules that ask the root servers by themselves, and without validation
    text = f"""net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})
modules.unload('ta_update')
modules.unload('ta_signal_query')
modules.unload('priming')
modules.unload('detect_time_skew')
modules.unload('detect_time_jump')
trust_anchors.remove('.')
modules = {{ 'policy' }}
cache.size = 100 * MB
policy.add(policy.all(policy.TLS_FORWARD({{{servers}}})))
"""
    (place.folder / "kresd.conf").write_text(text)
    (place.folder / "kresd").mkdir(exist_ok=True)
    return [place.find("kresd"), "-n", "-q", "-c", f"{place.inside}/kresd.conf", f"{place.inside}/kresd"]


def smartdns(place, port, upstream, _):
    servers = "\n".join(
        f"server-tls {address}:{at} -host-name {upstream.name} -tls-host-verify {upstream.name}"
        for address, at in upstream.servers
    )
    # speed checks would ping the addresses in the answers
    text = f"""bind 127.0.0.1:{port}
cache-size 0
speed-check-mode none
dualstack-ip-selection no
ca-file {place.inside}/ca.pem
log-level error
log-file {place.inside}/smartdns.log
user root
{servers}
"""
    (place.folder / "smartdns.conf").write_text(text)
    return [place.find("smartdns"), "-f", "-c", f"{place.inside}/smartdns.conf", "-p", "-"]


PROGRAMS = {
    "dot-proxy": dot_proxy,
    "dot-proxy-parallel": dot_proxy_parallel,
    "unbound": unbound,
    "dnsdist": dnsdist,
    "dnsdist-pipelined": dnsdist_pipelined,
    "stubby": stubby,
    "knot-resolver": knot_resolver,
    "smartdns": smartdns,
}
OURS = {"dot-proxy", "dot-proxy-parallel"}
# where the name of the program is not that of its file
EXECUTABLES = {"knot-resolver": "kresd", "dnsdist-pipelined": "dnsdist"}


class Running:
    """A program with its resolvers behind it, ready for queries."""

    def __init__(self, name, place, upstream, settings):
        self.port = free_port()
        command = PROGRAMS[name](place, self.port, upstream, settings)
        self.log_file = place.folder / "log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                place.command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "RUNTIME_DIRECTORY": str(place.folder)},
            )
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self):
        end = time.monotonic() + START_LIMIT
        load = client.Load(self.port, "ready")
        try:
            while load.ask(0.5) is None or load.answers[len(load.sent) - 1][1] != 0:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"it does not answer; the end of its log:\n{self.log()[-2000:]}")
                time.sleep(0.1)
        finally:
            load.close()

    def log(self):
        return self.log_file.read_text(errors="replace")

    def lives(self):
        return self.process.poll() is None

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass
            try:
                self.process.wait(3)
                break
            except subprocess.TimeoutExpired:
                continue


def version(name, place, settings):
    """What the program says of itself."""
    if name in OURS:
        command = [settings.dot_proxy, "--version"]
    else:
        arguments = {"smartdns": "-v", "stubby": "-V", "unbound": "-V"}.get(name, "--version")
        command = place.command([place.find(EXECUTABLES.get(name, name)), arguments])
    said = subprocess.run(command, capture_output=True, text=True, timeout=10)
    lines = (said.stdout + said.stderr).splitlines() or [""]
    words = [word for word in lines[0].replace(",", " ").split() if word[:1].isdigit() or word.startswith("1.")]
    return words[0] if words else lines[0]


def remove(place):
    shutil.rmtree(place.folder, ignore_errors=True)
