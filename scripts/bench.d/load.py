"""Load: fio with its NBD engine, and what comes out of it."""

import json
import statistics
from pathlib import Path


class Result:
    """What one run of fio measured; times in milliseconds, rates per second."""

    def __init__(self, job):
        self.read, self.write, self.sync = job["read"], job["write"], job["sync"]
        busy = self.read if self.read["total_ios"] else self.write
        self.iops = busy["total_ios"] / max(busy["runtime"], 1) * 1000
        self.bytes_per_s = busy["io_bytes"] / max(busy["runtime"], 1) * 1000
        self.ios = busy["total_ios"]

    def sync_ms(self, percent):
        table = self.sync.get("lat_ns", {}).get("percentile", {})
        return table.get(f"{percent:.6f}", 0) / 1e6


def fio(bench, uri, rw, bs, depth=1, jobs=1, seconds=None, extra=()):
    """Runs fio against `uri`. With `seconds` for so long, else as far as `extra` says. Warmed up by nothing: see callers."""
    args = ["fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
            f"--numjobs={jobs}", "--thread", "--group_reporting", "--output-format=json", "--randrepeat=0",
            "--norandommap", *extra]
    if seconds is not None:
        args += ["--time_based", f"--runtime={int(seconds * 1000)}ms"]
    out = bench.run(args, timeout=(seconds or 0) + 900)
    return Result(json.loads(out[out.index("{"):])["jobs"][0])


def rates(prefix, jobs):
    """Operations in each second of a run whose fio got `--write_iops_log=PREFIX --log_avg_msec=1000`."""
    per_second = {}
    for job in range(1, jobs + 1):
        for line in Path(f"{prefix}_iops.{job}.log").read_text().splitlines():
            ms, value, direction = (int(f) for f in line.split(",")[:3])
            if direction == 1:
                per_second[round(ms / 1000)] = per_second.get(round(ms / 1000), 0) + value
    return [per_second[s] for s in sorted(per_second)]


def median(values):
    return statistics.median(values)
