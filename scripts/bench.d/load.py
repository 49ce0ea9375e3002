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


def fio_args(uri, rw, bs, depth=1, jobs=1, extra=()):
    """The command line of a load."""
    return ["fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
            f"--numjobs={jobs}", "--thread", "--group_reporting", "--output-format=json", "--randrepeat=0",
            "--norandommap", *extra]


def fio(bench, uri, rw, bs, depth=1, jobs=1, seconds=None, extra=()):
    """Runs fio against `uri`. With `seconds` for so long, else as far as `extra` says. Warmed up by nothing: see callers."""
    args = fio_args(uri, rw, bs, depth, jobs, extra)
    if seconds is not None:
        args += ["--time_based", f"--runtime={int(seconds * 1000)}ms"]
    out = bench.run(args, timeout=(seconds or 0) + 900)
    return Result(json.loads(out[out.index("{"):])["jobs"][0])


class Background:
    """fio beside us: how many bytes it has written so far, and what came out in the end."""

    def __init__(self, bench, name, args):
        self.path = bench.work / f"{name}.fio"
        self.bench = bench
        self.child = bench.spawn(name, [*args, "--status-interval=1", f"--output={self.path}"])

    def _reports(self):
        """What fio has told so far; the last report may be half written."""
        text = self.path.read_text() if self.path.exists() else ""
        found, at = [], text.find("{")
        while at >= 0:
            try:
                report, end = json.JSONDecoder().raw_decode(text, at)
            except json.JSONDecodeError:
                break
            found.append(report["jobs"][0])
            at = text.find("{", end)
        return found

    def running(self):
        return self.child.poll() is None

    def written(self):
        return max((job["write"]["io_bytes"] for job in self._reports()), default=0)

    def result(self, patience=600):
        """Waits for the end."""
        code = self.child.wait(patience)
        self.bench.children.remove(self.child)
        if code or not self._reports():
            raise OSError(f"fio ended with {code} ({self.path})")
        return Result(self._reports()[-1])


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
