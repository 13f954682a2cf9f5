"""What all benchmarks share: servers, the load generator, medians of rounds, the table."""

import datetime
import hashlib
import hmac
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
ACCESS_KEY, SECRET_KEY = "bench-access-key", "bench-secret-key"
KEYS, VALUE_BYTES, CLIENTS = 100_000, 64, 50
START_LIMIT_SECONDS = 600


class Bench:
    def __init__(self, options):
        self.options = options
        self.raw = HERE / "raw" / time.strftime("%Y%m%d-%H%M%S")
        self.raw.mkdir(parents=True)
        self.samples = (self.raw / "samples.jsonl").open("a")
        self.servers = []
        self.loadgen = options.target / "loadgen"
        self.forebay = options.target / "forebay"

    def stop_servers(self):
        for server in self.servers:
            if server.process.poll() is None:
                server.stop(signal.SIGKILL)

    def keep(self, **sample):
        self.samples.write(json.dumps(sample) + "\n")
        self.samples.flush()

    def directory(self, name):
        """A fresh directory on the disk of the repository."""
        path = self.raw / "data" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def start_forebay(self, sync="always", name="forebay", wrap=()):
        if self.options.redis_only:
            return Redis(self, name, "always" if sync == "always" else "everysec", wrap)
        return Forebay(self, name, sync, wrap)

    def measure(self, server, arguments):
        """One run of our load generator: its report with the server's CPU per operation in microseconds."""
        before = server.cpu_seconds()
        report = self.run_loadgen(arguments)
        report["cpu_us"] = (server.cpu_seconds() - before) * 1e6 / max(report["ops"], 1)
        self.keep(server=server.name, arguments=arguments, **report)
        return report

    def run_loadgen(self, arguments):
        done = subprocess.run([self.loadgen, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"loadgen {' '.join(arguments)}: {done.stderr or done.stdout}")
        return json.loads(done.stdout)

    def redis_benchmark(self, server, command, pipeline, expected_rate):
        """Operations per second as redis-benchmark sees them; it takes a number of requests, not a time."""
        count = int(max(2_000, expected_rate * self.options.seconds))
        before = server.cpu_seconds()
        done = subprocess.run(
            ["redis-benchmark", "-p", str(server.port), "-t", command, "-n", str(count), "-c", str(CLIENTS)]
            + ["-P", str(pipeline), "-d", str(VALUE_BYTES), "-r", str(KEYS), "--csv"],
            capture_output=True, text=True, check=True,
        )
        rate = float(done.stdout.splitlines()[1].split(",")[1].strip('"'))
        cpu_us = (server.cpu_seconds() - before) * 1e6 / count
        self.keep(server=server.name, tool="redis-benchmark", command=command, pipeline=pipeline, rate=rate, cpu_us=cpu_us)
        return rate

    def compare(self, ours, peer, sample):
        """Rounds of `sample(server)` on both, in turns; medians of each number by name."""
        results = {ours.name: [], peer.name: []}
        for number in range(self.options.rounds):
            order = (ours, peer) if number % 2 == 0 else (peer, ours)
            for server in order:
                results[server.name].append(sample(server))
        def median(server):
            rows = results[server.name]
            return {field: statistics.median(row[field] for row in rows) for field in rows[0]}
        return median(ours), median(peer)

    def show(self, table):
        widths = [46, 12, 12, 8, 14, 6]
        header = ["what", "forebay", "peer", "ratio", "target", ""]
        lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) for row in [header, *table]]
        text = "\n".join(lines)
        print("\n" + text)
        (self.raw / "table.txt").write_text(text + "\n")
        print(f"\nraw output: {self.raw}")
        shutil.rmtree(self.raw / "data", ignore_errors=True)


class Server:
    """A process with its data directory."""

    # A pipe for those that live as long as their standard input.
    stdin = subprocess.DEVNULL
    # Whether its objects are those that a mount has written.
    has_origin_objects = False

    def __init__(self, bench, name, command, environment=None, wrap=()):
        self.name, self.bench = name, bench
        self.command = [*wrap, *map(str, command)]
        self.environment = {**os.environ, **(environment or {})}
        self.process = None
        bench.servers.append(self)
        self.start()

    def start(self):
        """Starts it and waits until it answers; returns the seconds that took."""
        log = (self.bench.raw / f"{self.name}.log").open("a")
        begin = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdin=self.stdin, stdout=log, stderr=log, env=self.environment
        )
        while not self.ready():
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with {self.process.returncode}, see {log.name}")
            if time.monotonic() - begin > START_LIMIT_SECONDS:
                raise SystemExit(f"{self.name} is not ready, see {log.name}")
            time.sleep(0.005)
        return time.monotonic() - begin

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()

    def pid(self):
        return self.process.pid

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid()}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def memory_mib(self, field):
        text = pathlib.Path(f"/proc/{self.pid()}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", text).group(1)) / 1024


class Forebay(Server):
    """`config` is the text of a config file."""

    def __init__(self, bench, name, sync, wrap=(), config=""):
        self.data = bench.directory(name)
        self.config_file = bench.raw / f"{name}.toml"
        self.config_file.touch(mode=0o600)
        self.config_file.write_text(config)
        super().__init__(
            bench,
            name,
            [bench.forebay, "start", "--config", self.config_file, "--data-dir", self.data, "--sync", sync]
            + ["--resp-listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
            {"FOREBAY_ACCESS_KEY_ID": ACCESS_KEY, "FOREBAY_SECRET_ACCESS_KEY": SECRET_KEY},
            wrap,
        )

    def start(self):
        (self.data / "endpoints.json").unlink(missing_ok=True)
        return super().start()

    def ready(self):
        try:
            endpoints = json.loads((self.data / "endpoints.json").read_text())
            urllib.request.urlopen(f"http://{endpoints['admin']}/readyz", timeout=5).close()
        except (OSError, ValueError, KeyError):
            return False
        self.port = int(endpoints["resp"].rsplit(":", 1)[1])
        self.s3_port = int(endpoints["s3"].rsplit(":", 1)[1])
        self.admin = f"http://{endpoints['admin']}"
        return True

    def restart(self, config):
        """With another config file."""
        self.stop()
        self.config_file.write_text(config)
        self.start()

    def counters(self):
        """What /metrics says, by name without labels."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=20) as answer:
            lines = [line.split() for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {line[0]: float(line[1]) for line in lines if len(line) == 2}

    def flush(self, timeout="110s"):
        """Waits until everything written so far is in the origin."""
        wait = [self.bench.forebay, "flush", "wait", "--timeout", timeout, "--admin", self.admin]
        subprocess.run(wait, check=True, stdout=subprocess.DEVNULL)


class Redis(Server):
    def __init__(self, bench, name, appendfsync, wrap=()):
        self.data = bench.directory(name)
        self.port = free_port()
        append = ["--appendonly", "no"] if appendfsync == "no-aof" else ["--appendonly", "yes", "--appendfsync", appendfsync]
        super().__init__(
            bench, name, ["redis-server", "--port", self.port, "--dir", self.data, "--save", "", *append], wrap=wrap
        )

    def ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64) == b"+PONG\r\n"
        except OSError:
            return False


class S3sFs(Server):
    def __init__(self, bench):
        self.data = bench.directory("s3s-fs")
        self.s3_port = free_port()
        super().__init__(
            bench,
            "s3s-fs",
            ["s3s-fs", "--host", "127.0.0.1", "--port", self.s3_port, "--access-key", ACCESS_KEY]
            + ["--secret-key", SECRET_KEY, self.data],
        )

    def ready(self):
        try:
            socket.create_connection(("127.0.0.1", self.s3_port), timeout=5).close()
            return True
        except OSError:
            return False


class Minio(Server):
    """One drive, no console, nothing asked from outside."""

    def __init__(self, bench):
        self.data = bench.directory("minio")
        self.s3_port = free_port()
        environment = {
            "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off", "HOME": str(bench.raw),
        }
        command = ["minio", "server", "--quiet", "--address", f"127.0.0.1:{self.s3_port}", self.data]
        super().__init__(bench, "minio", command, environment)

    def ready(self):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.s3_port}/minio/health/live", timeout=5).close()
            return True
        except OSError:
            return False


S3_PEERS = {"s3s-fs": S3sFs, "minio": Minio}


def s3_peer(bench):
    """The S3 server that `--s3-peer` names, in a list; an empty one, and a line, where it is not installed."""
    name = bench.options.s3_peer
    if not shutil.which(name):
        print(f"!!! SKIPPED: {name} is not on the PATH, so S3 has no peer", file=sys.stderr)
        return []
    return [S3_PEERS[name](bench)]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def row(what, ours, peer, target=None, at_most=False, limit=None):
    """`target` is a ratio; `limit` an absolute bound of ours beside it."""
    ratio = ours / peer if peer else float("nan")
    verdict, wanted = "", ""
    if target is not None:
        good = ratio <= target if at_most else ratio >= target
        wanted = f"{'<=' if at_most else '>='} {target}x"
        if limit is not None:
            good = good and ours < limit
            wanted += f", < {limit}"
        verdict = "ok" if good else "MISSED"
    number = lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return [what, number(ours), number(peer) if peer else "-", f"{ratio:.2f}" if peer else "-", wanted, verdict]


def create_bucket(port):
    """A PUT signed by SigV4 with nothing but the standard library."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    host, empty = f"127.0.0.1:{port}", hashlib.sha256(b"").hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = f"PUT\n/bench\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{now}\n\n{names}\n{empty}"
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + SECRET_KEY).encode()
    for part in (now[:8], "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    request = urllib.request.Request(f"http://{host}/bench", method="PUT")
    request.add_header("x-amz-content-sha256", empty)
    request.add_header("x-amz-date", now)
    authorization = f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={signature}"
    request.add_header("Authorization", authorization)
    urllib.request.urlopen(request, timeout=20).close()


def disk_mib(path):
    done = subprocess.run(["du", "-sk", path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) / 1024
