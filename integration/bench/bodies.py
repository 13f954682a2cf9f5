"""Cases with large bodies: `large` (PutObject and GetObject), `flush` (beside rclone), `cold` (read-through), `zipf` (what is kept)."""

import concurrent.futures
import hashlib
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import time

from harness import ACCESS_KEY, SECRET_KEY, Forebay, S3sFs, Server, create_bucket, free_port, row, s3_peer

MIB = 1 << 20
ORIGIN_KEY, ORIGIN_SECRET = "origin-access-key", "origin-secret-key"
# Body, clients, keys: enough of them that the same bytes are not written again and again.
SIZES = {"64K": (64 << 10, 16, 4000), "1M": (MIB, 16, 400), "64M": (64 * MIB, 16, 16), "256M": (256 * MIB, 1, 4)}
RCLONE_TRANSFERS = (4, 16, 64)
# Objects of 1 GiB that a node of 2 GiB keeps, at most.
COLD_KEPT = 2
EVICTED_LIMIT_SECONDS = 60


class BareHttp(Server):
    """hyper and nothing else: sends the same bytes from memory or a file, or passes on what another server says."""

    stdin = subprocess.PIPE
    ready = S3sFs.ready

    def __init__(self, bench, *answers):
        self.s3_port = free_port()
        command = [bench.options.target / "bare-http", "--listen", f"127.0.0.1:{self.s3_port}", *answers]
        super().__init__(bench, "bare-http", command)
        self.has_origin_objects = answers[0] == "--upstream"


class OriginSim(Server):
    """The simulated origin of the tests, in memory: fresh for every sample."""

    stdin = subprocess.PIPE
    ready = S3sFs.ready
    has_origin_objects = True

    def __init__(self, bench, line=()):
        self.s3_port = free_port()
        command = [bench.options.target / "origin-sim", "--listen", f"127.0.0.1:{self.s3_port}", "--bucket", "cloud"]
        super().__init__(bench, "origin-sim", [*command, *line])


def s3_load(bench, server, operation, body_bytes, clients, keys, seconds, first=0):
    """With zero seconds every key is used once."""
    # Of the origin the same objects are asked, where the mount has put them.
    access, secret, bucket, prefix = (ACCESS_KEY, SECRET_KEY, "bench", "")
    if server.has_origin_objects:
        access, secret, bucket, prefix = (ORIGIN_KEY, ORIGIN_SECRET, "cloud", "bench/")
    # What others have left to the kernel is not to be written at this sample's cost.
    os.sync()
    report = bench.measure(
        server,
        ["s3", "--addr", f"127.0.0.1:{server.s3_port}", "--op", operation, "--access-key", access]
        + ["--secret-key", secret, "--bucket", bucket, "--prefix", prefix, "--first", str(first), "--keys", str(keys)]
        + ["--clients", str(clients), "--bytes", str(body_bytes), "--seconds", str(seconds)],
    )
    report["cpu_us_per_mib"] = report["cpu_us"] * MIB / body_bytes
    return report


def mount(origin):
    """Writes the bucket `bench` back to the origin."""
    return (
        f'[[mount]]\npath = "/bench"\norigin = "s3://cloud/bench"\nendpoint = "http://127.0.0.1:{origin.s3_port}"\n'
        f'region = "us-east-1"\naccess_key_id = "{ORIGIN_KEY}"\nsecret_access_key = "{ORIGIN_SECRET}"\n'
    )


def medians(rows):
    return {field: statistics.median(entry[field] for entry in rows) for field in rows[0]}


def large(bench):
    """PutObject and GetObject beside another S3 server; 256 MiB beside MD5 and bare hyper servers."""
    rows = []
    for size in bench.options.sizes.split(","):
        rows += large_alone(bench) if size == "256M" else large_beside_peer(bench, size)
        print("\n".join("  ".join(cells) for cells in rows), flush=True)
    return rows


def large_beside_peer(bench, size):
    body_bytes, clients, keys = SIZES[size]
    servers = [Forebay(bench, "forebay", "always"), *s3_peer(bench)]
    for server in servers:
        create_bucket(server.s3_port)
        s3_load(bench, server, "put", body_bytes, clients, keys, 0)
    rows = []
    for operation, name in (("put", "PutObject"), ("get", "GetObject")):
        def sample(server):
            return s3_load(bench, server, operation, body_bytes, clients, keys, bench.options.seconds)
        if len(servers) == 2:
            ours, peer = bench.compare(*servers, sample)
        else:
            ours = medians([sample(servers[0]) for _ in range(bench.options.rounds)])
            peer = {field: 0 for field in ours}
        what = f"{name} {size}iB, {clients} clients"
        rows.append(row(f"{what}, MiB/s", ours["mib_per_second"], peer["mib_per_second"]))
        rows.append(row(f"{what}, server CPU us/MiB", ours["cpu_us_per_mib"], peer["cpu_us_per_mib"]))
        rows.append(row(f"{what}, p99 us", ours["p99_us"], peer["p99_us"]))
    for server in servers:
        server.stop(signal.SIGKILL)
        shutil.rmtree(server.data)
    return rows


def disk_writes(bench):
    """What four threads write past the page cache, in MiB/s: what is kept can come no faster. 0 where nobody can."""
    directory, pieces, threads = bench.directory("disk"), 256, 4
    body = mmap.mmap(-1, MIB)
    body.write(os.urandom(MIB))

    def write(number):
        file = os.open(directory / f"file-{number}", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
        for piece in range(pieces):
            os.pwrite(file, body, piece * MIB)
        os.fdatasync(file)
        os.close(file)

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(write, range(threads)))
            return threads * pieces / (time.monotonic() - begin)
        except OSError:
            return 0
        finally:
            shutil.rmtree(directory)


def openssl_md5(bench):
    """MD5 as OpenSSL computes it, in MiB/s: a second opinion of what a core can."""
    body = os.urandom(64 * MIB)
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < bench.options.seconds / 2:
        hashlib.md5(body).digest()
        count += 1
    return count * 64 / (time.monotonic() - begin)


def large_alone(bench):
    body_bytes, clients, keys = SIZES["256M"]
    ours, peer = Forebay(bench, "forebay", "always"), BareHttp(bench, "--bytes", body_bytes)
    path = bench.directory("file") / "body"
    path.write_bytes(os.urandom(body_bytes))
    file_peer = BareHttp(bench, "--file", path)
    create_bucket(ours.s3_port)
    s3_load(bench, ours, "put", body_bytes, clients, keys, 0)
    puts, md5, openssl, gets, memory, file = [], [], [], [], [], []
    for _ in range(bench.options.rounds):
        md5.append(bench.run_loadgen(["md5", "--seconds", str(bench.options.seconds / 2)]))
        openssl.append({"mib_per_second": openssl_md5(bench)})
        puts.append(s3_load(bench, ours, "put", body_bytes, clients, keys, bench.options.seconds))
    # They were written past the page cache; memory is compared with memory.
    from_disk = s3_load(bench, ours, "get", body_bytes, clients, keys, 0)
    for _ in range(bench.options.rounds):
        gets.append(s3_load(bench, ours, "get", body_bytes, clients, keys, bench.options.seconds))
        memory.append(s3_load(bench, peer, "get", body_bytes, clients, keys, bench.options.seconds))
        file.append(s3_load(bench, file_peer, "get", body_bytes, clients, keys, bench.options.seconds))
    bench.keep(md5=md5, openssl=openssl, from_disk=from_disk)
    for server in (ours, peer, file_peer):
        server.stop(signal.SIGKILL)
    shutil.rmtree(ours.data)
    path.unlink()
    puts, md5, openssl, gets, memory, file = map(medians, (puts, md5, openssl, gets, memory, file))
    return [
        row("PutObject 256 MiB beside MD5 alone, MiB/s", puts["mib_per_second"], md5["mib_per_second"], 0.8),
        row("PutObject 256 MiB beside OpenSSL's MD5, MiB/s", puts["mib_per_second"], openssl["mib_per_second"]),
        row("PutObject 256 MiB, server CPU us/MiB", puts["cpu_us_per_mib"], 0),
        row("GetObject 256 MiB beside hyper from memory, MiB/s", gets["mib_per_second"], memory["mib_per_second"], 0.8),
        row("  beside hyper from a cached file, MiB/s", gets["mib_per_second"], file["mib_per_second"]),
        row("  beside it, server CPU us/MiB", gets["cpu_us_per_mib"], file["cpu_us_per_mib"]),
        row("  the first time, from the disk, MiB/s", from_disk["mib_per_second"], 0),
        row("GetObject 256 MiB, server CPU us/MiB", gets["cpu_us_per_mib"], memory["cpu_us_per_mib"]),
    ]


def flush(bench):
    """The queue to the cloud beside `rclone copy` of the same bodies as files, each into a fresh origin."""
    rows = []
    for count, body_bytes, clients, name in ((10_000, 64 << 10, 16, "10,000 x 64 KiB"), (4, 256 * MIB, 4, "4 x 256 MiB")):
        files = bench.directory("files")
        body = os.urandom(body_bytes)
        for number in range(count):
            (files / f"object-{number}").write_bytes(body)
        os.sync()
        ours, peers = [], {transfers: [] for transfers in RCLONE_TRANSFERS}
        for _ in range(bench.options.rounds):
            ours.append(flush_sample(bench, count, body_bytes, clients))
            for transfers, samples in peers.items():
                samples.append(rclone_sample(bench, files, transfers, count * body_bytes))
        shutil.rmtree(files)
        best = min(peers, key=lambda transfers: medians(peers[transfers])["seconds"])
        ours, peer = medians(ours), medians(peers[best])
        title = f"flush {name} beside rclone --transfers {best}"
        rows.append(row(f"{title}, MiB/s", ours["mib_per_second"], peer["mib_per_second"], 1.0))
        rows.append(row("  sender's CPU us/MiB", ours["cpu_us_per_mib"], peer["cpu_us_per_mib"]))
        rows.append(row("  origin's CPU us/MiB", ours["origin_cpu_us_per_mib"], peer["origin_cpu_us_per_mib"]))
        for transfers, samples in peers.items():
            rows.append(row(f"  beside --transfers {transfers}, MiB/s", ours["mib_per_second"], medians(samples)["mib_per_second"]))
        rows.append(row("  longest age of a change, ms", ours["oldest_ms"], 0))
        print("\n".join("  ".join(cells) for cells in rows), flush=True)
    return rows


def flush_sample(bench, count, body_bytes, clients):
    """The origin is stopped while the bodies are written; the time runs from the moment it goes on."""
    origin = OriginSim(bench)
    server = Forebay(bench, "forebay", "always", config=mount(origin))
    create_bucket(server.s3_port)
    s3_load(bench, server, "put", 1, 1, 1, 0)
    # The mount is attached and probed.
    server.flush()
    origin.process.send_signal(signal.SIGSTOP)
    s3_load(bench, server, "put", body_bytes, clients, count, 0)
    os.sync()
    before, origin_before = server.cpu_seconds(), origin.cpu_seconds()
    oldest_ms = 1000 * server.counters().get("forebay_flush_oldest_pending_age_seconds", 0)
    begin = time.monotonic()
    origin.process.send_signal(signal.SIGCONT)
    server.flush()
    sample = timed(begin, server.cpu_seconds() - before, origin.cpu_seconds() - origin_before, count * body_bytes)
    sample["oldest_ms"] = oldest_ms + 1000 * sample["seconds"]
    bench.keep(server="forebay", case="flush", count=count, body_bytes=body_bytes, **sample)
    server.stop(signal.SIGKILL)
    origin.stop(signal.SIGKILL)
    shutil.rmtree(server.data)
    return sample


def rclone_sample(bench, files, transfers, total_bytes):
    origin = OriginSim(bench)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))},
        "RCLONE_CONFIG_SIM_TYPE": "s3",
        "RCLONE_CONFIG_SIM_PROVIDER": "Other",
        "RCLONE_CONFIG_SIM_ENDPOINT": f"http://127.0.0.1:{origin.s3_port}",
        "RCLONE_CONFIG_SIM_REGION": "us-east-1",
        "RCLONE_CONFIG_SIM_LIST_VERSION": "2",
        "RCLONE_CONFIG_SIM_ACCESS_KEY_ID": ORIGIN_KEY,
        "RCLONE_CONFIG_SIM_SECRET_ACCESS_KEY": ORIGIN_SECRET,
    }
    origin_before = origin.cpu_seconds()
    before = os.times()
    begin = time.monotonic()
    copy = ["rclone", "copy", files, "sim:cloud/bench", "--transfers", str(transfers), "--config", "/dev/null"]
    done = subprocess.run(copy, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"rclone: {done.stderr}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    sample = timed(begin, cpu, origin.cpu_seconds() - origin_before, total_bytes)
    bench.keep(server="rclone", case="flush", transfers=transfers, **sample)
    origin.stop(signal.SIGKILL)
    return sample


def timed(begin, cpu, origin_cpu, total_bytes):
    seconds = time.monotonic() - begin
    mib = total_bytes / MIB
    return {
        "seconds": seconds,
        "mib_per_second": mib / seconds,
        "cpu_us_per_mib": cpu * 1e6 / mib,
        "origin_cpu_us_per_mib": origin_cpu * 1e6 / mib,
    }


def cold(bench):
    """GetObject of 1 GiB that was evicted, beside the same GET of the origin itself, and through a proxy that keeps
    nothing, over each of `--lines`."""
    rows = []
    for line in bench.options.lines.split(","):
        title, arguments = "origin in memory", []
        if line != "none":
            mib_per_second, latency_ms = line.split(":")
            title = f"origin {latency_ms} ms away at {mib_per_second} MiB/s"
            arguments = ["--line-mib", mib_per_second, "--latency-ms", latency_ms]
        rows += cold_over(bench, title, arguments)
    return rows


def cold_over(bench, title, line):
    body_bytes, objects = 1 << 30, bench.options.rounds
    origin = OriginSim(bench, line)
    roomy, tight = ('capacity = "64GiB"\n' + mount(origin), 'capacity = "2GiB"\n' + mount(origin))
    server = Forebay(bench, "forebay-cold", "always", config=roomy)
    create_bucket(server.s3_port)
    for number in range(objects + COLD_KEPT):
        s3_load(bench, server, "put", body_bytes, 1, 1, 0, first=number)
    server.flush()
    # A small node gives up the oldest of them; then there is room again, so that nothing has to go for what is read.
    server.restart(tight)
    limit = time.monotonic() + EVICTED_LIMIT_SECONDS
    while (evicted := server.counters()["forebay_evicted_capacity_bytes_total"]) < objects * body_bytes:
        if time.monotonic() > limit:
            raise SystemExit(f"only {evicted / MIB:.0f} MiB were evicted, see {bench.raw}")
        time.sleep(0.1)
    server.restart(roomy)

    def get(of, number):
        """With the CPU time of everybody who had to do with it."""
        processes = {"server": of if of is proxy else server, "origin": origin}
        before = {name: process.cpu_seconds() for name, process in processes.items()}
        filled, times = server.counters()["forebay_fill_bytes_total"], os.times()
        sample = s3_load(bench, of, "get", body_bytes, 1, 1, 0, first=number)
        sample["filled_mib"] = (server.counters()["forebay_fill_bytes_total"] - filled) / MIB
        for name, process in processes.items():
            sample[f"{name}_us_per_mib"] = (process.cpu_seconds() - before[name]) * 1e6 * MIB / body_bytes
        client = os.times().children_user + os.times().children_system - times.children_user - times.children_system
        sample["client_us_per_mib"] = client * 1e6 * MIB / body_bytes
        return sample

    ours, peer, passed = [], [], []
    proxy = BareHttp(bench, "--upstream", f"127.0.0.1:{origin.s3_port}")
    for number in range(objects):
        ours.append(get(server, number))
        if (filled := ours[-1]["filled_mib"]) < 0.99 * body_bytes / MIB:
            raise SystemExit(f"object {number} was not cold: {filled:.0f} MiB came from the origin")
        peer.append(get(origin, number))
        passed.append(get(proxy, number))
    again = get(server, objects - 1)
    kept = server.counters()["forebay_fills_kept_total"]
    bench.keep(line=line, evicted=evicted, kept=kept, ours=ours, peer=peer, passed=passed, again=again)
    disk = disk_writes(bench)
    for process in (server, origin, proxy):
        process.stop(signal.SIGKILL)
    shutil.rmtree(server.data)
    ours, peer, passed = medians(ours), medians(peer), medians(passed)
    rows = [
        row(f"cold GetObject 1 GiB, {title}, MiB/s", ours["mib_per_second"], peer["mib_per_second"], 0.8),
        row("  beside a proxy that keeps nothing, MiB/s", ours["mib_per_second"], passed["mib_per_second"]),
        row("  beside the disk's own writes, MiB/s", ours["mib_per_second"], disk),
        row("  fetched from the origin, MiB", ours["filled_mib"], body_bytes / MIB),
        row("  CPU us/MiB: the server's, the proxy's", ours["server_us_per_mib"], passed["server_us_per_mib"]),
        row("  CPU us/MiB: the origin's", ours["origin_us_per_mib"], peer["origin_us_per_mib"]),
        row("  CPU us/MiB: the client's", ours["client_us_per_mib"], peer["client_us_per_mib"]),
        row("  the same object once more, MiB/s", again["mib_per_second"], peer["mib_per_second"]),
    ]
    print("\n".join("  ".join(cells) for cells in rows), flush=True)
    return rows


def zipf(bench):
    """A skewed trace over four times what fits, beside a simulated LRU of whole objects: what the core makes of it."""
    root = pathlib.Path(__file__).resolve().parents[2]
    command = ["cargo", "test", "--release", "--locked", "--manifest-path", root / "Cargo.toml", "-p", "forebay-storage"]
    command += ["--lib", "zipf", "--", "--ignored", "--nocapture"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (bench.raw / "zipf.txt").write_text(said)
    rows, figures = [], {}
    for line in said.splitlines():
        if line.startswith("zipf "):
            trace, figures = line.split(":")[0], {}
        elif found := re.match(r"  (per-object LRU|store, ghost queue).* hit ratio ([\d.]+), .* requested ([\d.]+)", line):
            figures[found[1]] = (float(found[2]), float(found[3]))
            if len(figures) == 2:
                ours, peer = figures["store, ghost queue"], figures["per-object LRU"]
                rows += [
                    row(f"{trace}: hit ratio, beside LRU", ours[0], peer[0]),
                    row("  bytes written per byte requested", ours[1], peer[1]),
                ]
    if not rows:
        raise SystemExit(f"the trace printed no figures; see {bench.raw / 'zipf.txt'}")
    bench.keep(server="zipf", rows=rows)
    return rows
