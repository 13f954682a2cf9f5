"""Benchmarks of Forebay beside redis-server 7.0, s3s-fs or MinIO, and for large bodies MD5, hyper and rclone. Started by `run`, which builds everything.

Method: both servers run on fresh directories of the same disk; rounds alternate between them and between who
goes first; the median of the rounds counts. Server CPU is utime + stime of the whole process from
/proc/PID/stat, divided by the operations answered meanwhile: on two cores the load generator is often the limit, so
CPU per operation says more than operations per second. Every sample is kept in raw/<time>/samples.jsonl.
"""

import argparse
import pathlib
import shutil
import signal
import statistics
import sys

import bodies
from harness import ACCESS_KEY, CLIENTS, KEYS, S3_PEERS, SECRET_KEY, VALUE_BYTES, Bench, Forebay, Redis, s3_peer
from harness import create_bucket, disk_mib, row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="set-always get set-everysec s3 (default: these four), "
                        "keys, limited, large, flush, cold, zipf")
    parser.add_argument("--target", type=pathlib.Path, help="directory of the release binaries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one sample")
    parser.add_argument("--count", type=int, default=10_000_000, help="number of keys of `keys`")
    parser.add_argument("--memory", default="1G", help="memory limit of `limited`")
    parser.add_argument("--lines", default="none,119:20",
                        help="lines to the origin of `cold`: MiB/s and ms (119:20 is 1 Gbit/s, 20 ms), or none")
    parser.add_argument("--sizes", default="64K,1M,64M,256M", help="bodies of `large`")
    parser.add_argument("--s3-peer", choices=list(S3_PEERS), default="s3s-fs", help="the other S3 server; minio where "
                        "it is on the PATH")
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
    servers = [Forebay(bench, "forebay", "always"), *s3_peer(bench)]

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
    "large": bodies.large, "flush": bodies.flush, "cold": bodies.cold, "zipf": bodies.zipf,
}

if __name__ == "__main__":
    main()
