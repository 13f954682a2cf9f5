"""Benchmarks of Forebay beside redis-server 7.0 and s3s-fs. Started by `run`, which builds everything.

Method: both servers run on fresh directories of the same disk; rounds alternate between them and between who
goes first; the median of the rounds counts. Server CPU is utime + stime of the whole process from
/proc/PID/stat, divided by the operations answered meanwhile: on two cores the load generator is often the limit, so
CPU per operation says more than operations per second. Every sample is kept in raw/<time>/samples.jsonl.
"""

import argparse
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="set-always get set-everysec s3 (default: these four), keys, limited")
    parser.add_argument("--target", type=pathlib.Path, help="directory of the release binaries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one sample")
    parser.add_argument("--count", type=int, default=10_000_000, help="number of keys of `keys`")
    parser.add_argument("--memory", default="1G", help="memory limit of `limited`")
    parser.add_argument("--redis-only", action="store_true", help="run the peer against itself, to test this program")
    options = parser.parse_args()
    bench = Bench(options)
    cases = options.cases or ["set-always", "get", "set-everysec", "s3"]
    if unknown := [case for case in cases if case not in CASES]:
        parser.error(f"unknown case {unknown[0]}")
    table = []
    try:
        for case in cases:
            table += CASES[case](bench)
    finally:
        # What was measured before a failure is shown too.
        bench.stop_servers()
        bench.show(table)


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
            self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
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
    def __init__(self, bench, name, sync, wrap=()):
        self.data = bench.directory(name)
        super().__init__(
            bench,
            name,
            [bench.forebay, "start", "--data-dir", self.data, "--sync", sync, "--resp-listen", "127.0.0.1:0"]
            + ["--s3-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
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
        return True


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


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def resp_load(bench, server, operation, pipeline, keys=KEYS):
    return bench.measure(
        server,
        ["resp", "--addr", f"127.0.0.1:{server.port}", "--op", operation, "--clients", str(CLIENTS)]
        + ["--pipeline", str(pipeline), "--keys", str(keys), "--bytes", str(VALUE_BYTES)]
        + ["--seconds", str(bench.options.seconds)],
    )


def fill(bench, server, keys=KEYS):
    return bench.run_loadgen(
        ["resp", "--addr", f"127.0.0.1:{server.port}", "--op", "set", "--fill", "true", "--keys", str(keys)]
        + ["--bytes", str(VALUE_BYTES)]
    )


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


def redis_figure(bench, name, operation, sync, targets):
    """Rows for P = 1, 16, 64; `targets` maps (P, "rate" or "cpu") to (ratio, absolute limit or None)."""
    ours, peer = bench.start_forebay(sync), Redis(bench, "redis", sync)
    rows = []
    for server in (ours, peer):
        fill(bench, server)
    for pipeline in (1, 16, 64):
        a, b = bench.compare(ours, peer, lambda server: resp_load(bench, server, operation, pipeline))
        rate, cpu = targets.get((pipeline, "rate"), (None, None)), targets.get((pipeline, "cpu"), (None, None))
        rows.append(row(f"{name} P={pipeline}, ops/s (loadgen)", a["ops_per_second"], b["ops_per_second"], rate[0]))
        rows.append(row(f"{name} P={pipeline}, server CPU us/op", a["cpu_us"], b["cpu_us"], cpu[0], True, cpu[1]))
        rows.append(row(f"{name} P={pipeline}, p99 us of a batch", a["p99_us"], b["p99_us"]))
        expected = (a["ops_per_second"] + b["ops_per_second"]) / 2
        a, b = bench.compare(
            ours, peer, lambda server: {"rate": bench.redis_benchmark(server, operation, pipeline, expected)}
        )
        rows.append(row(f"{name} P={pipeline}, ops/s (redis-benchmark)", a["rate"], b["rate"], rate[0]))
        print("\n".join("  ".join(cells) for cells in rows[-4:]), flush=True)
    for server in (ours, peer):
        server.stop()
    return rows


def set_always(bench):
    targets = {
        (1, "rate"): (1.0, None), (16, "rate"): (1.3, None), (16, "cpu"): (0.9, None), (64, "cpu"): (0.7, None),
    }
    return redis_figure(bench, "SET 64 B always", "set", "always", targets)


def get(bench):
    targets = {
        (1, "rate"): (1.0, None), (16, "rate"): (1.3, None), (16, "cpu"): (0.7, None), (64, "cpu"): (0.7, 0.6),
    }
    return redis_figure(bench, "GET 64 B", "get", "always", targets)


def set_everysec(bench):
    return redis_figure(bench, "SET 64 B everysec", "set", "everysec", {(16, "rate"): (1.5, None)})


def s3(bench):
    if bench.options.redis_only:
        return []
    servers = [Forebay(bench, "forebay", "always")]
    if shutil.which("s3s-fs"):
        servers.append(S3sFs(bench))

    def load(server, operation, seconds):
        return bench.measure(
            server,
            ["s3", "--addr", f"127.0.0.1:{server.s3_port}", "--op", operation, "--access-key", ACCESS_KEY]
            + ["--secret-key", SECRET_KEY, "--clients", "16", "--keys", "4000", "--bytes", "4096"]
            + ["--seconds", str(seconds)],
        )

    for server in servers:
        create_bucket(server.s3_port)
        load(server, "put", 0)
    rows = []
    for operation, title in (("put", "PutObject 4 KiB, 16 clients"), ("get", "GetObject 4 KiB, 16 clients")):
        sample = lambda server: load(server, operation, bench.options.seconds)
        if len(servers) == 2:
            a, b = bench.compare(*servers, sample)
        else:
            rounds = [sample(servers[0]) for _ in range(bench.options.rounds)]
            a = {field: statistics.median(entry[field] for entry in rounds) for field in rounds[0]}
            b = {field: 0 for field in a}
        wanted = 3.0 if operation == "put" and len(servers) == 2 else None
        rows.append(row(f"{title}, ops/s", a["ops_per_second"], b["ops_per_second"], wanted))
        rows.append(row(f"{title}, server CPU us/op", a["cpu_us"], b["cpu_us"]))
        if operation == "get":
            rows.append(row(f"{title}, CPU beside bare s3s (17 us)", a["cpu_us"], 17.0, 1.5, True))
        rows.append(row(f"{title}, p99 us", a["p99_us"], b["p99_us"]))
    for server in servers:
        server.stop()
    return rows


def create_bucket(port):
    """A PUT signed by SigV4 with nothing but the standard library."""
    import datetime
    import hashlib
    import hmac

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


def keys(bench):
    """Many small keys: memory, disk, start after kill -9, GET rate."""
    count = bench.options.count
    found = {}
    for server in (bench.start_forebay(name="forebay-keys"), Redis(bench, "redis-keys", "everysec")):
        report = fill(bench, server, count)
        figures = {
            "fill, ops/s": report["ops_per_second"],
            "RssAnon, MiB": server.memory_mib("RssAnon"),
            "RssFile, MiB": server.memory_mib("RssFile"),
            "disk, MiB": disk_mib(server.data),
        }
        server.stop(signal.SIGKILL)
        figures["start after kill -9, s"] = server.start()
        figures["RssAnon after the start, MiB"] = server.memory_mib("RssAnon")
        gets = [resp_load(bench, server, "get", 16, count) for _ in range(3)]
        figures["GET P=16, ops/s"] = statistics.median(entry["ops_per_second"] for entry in gets)
        figures["GET P=16, server CPU us/op"] = statistics.median(entry["cpu_us"] for entry in gets)
        figures["RssAnon after GETs, MiB"] = server.memory_mib("RssAnon")
        figures["RssFile after GETs, MiB"] = server.memory_mib("RssFile")
        bench.keep(server=server.name, keys=count, **figures)
        server.stop(signal.SIGKILL)
        shutil.rmtree(server.data)
        found[server.name] = figures
    ours, peer = found["forebay-keys"], found["redis-keys"]
    rows = [row(f"{count:,} keys: {what}", ours[what], peer[what]) for what in ours]
    for cells in rows:
        if "start after kill" in cells[0]:
            cells[4:] = ["< 5 s", "ok" if ours["start after kill -9, s"] < 5 else "MISSED"]
    return rows


class MemoryLimit:
    """A cgroup with a memory limit, of either version."""

    def __init__(self, limit):
        root = pathlib.Path("/sys/fs/cgroup")
        unified = (root / "cgroup.controllers").exists()
        self.path = (root if unified else root / "memory") / "forebay-bench"
        self.path.mkdir(exist_ok=True)
        (self.path / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(limit)
        # Starts a program inside.
        self.wrap = ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    def events(self):
        file = self.path / ("memory.events" if (self.path / "memory.events").exists() else "memory.failcnt")
        return file.read_text().strip().replace("\n", ", ")

    def close(self):
        self.path.rmdir()


def limited(bench):
    """A keyspace larger than memory: the same keys in a cgroup with a memory limit."""
    try:
        limit = MemoryLimit(bench.options.memory)
    except OSError as error:
        print(f"!!! SKIPPED: no memory limit can be set here ({error})", file=sys.stderr)
        return []
    count = bench.options.count
    server = bench.start_forebay(name="forebay-limited", wrap=limit.wrap)
    report = fill(bench, server, count)
    gets = [resp_load(bench, server, "get", 16, count) for _ in range(3)]
    sets = [resp_load(bench, server, "set", 16, count) for _ in range(3)]
    events = limit.events()
    rows = [
        row(f"{count:,} keys in {bench.options.memory}: fill, ops/s", report["ops_per_second"], 0),
        row("  disk, MiB", disk_mib(server.data), 0),
        row("  random GET P=16, ops/s", statistics.median(entry["ops_per_second"] for entry in gets), 0),
        row("  random SET P=16, ops/s", statistics.median(entry["ops_per_second"] for entry in sets), 0),
    ]
    print(f"memory events: {events}")
    bench.keep(server=server.name, limit=bench.options.memory, events=events, rows=rows)
    server.stop(signal.SIGKILL)
    limit.close()
    return rows


CASES = {
    "set-always": set_always, "get": get, "set-everysec": set_everysec, "s3": s3, "keys": keys, "limited": limited,
}

if __name__ == "__main__":
    main()
