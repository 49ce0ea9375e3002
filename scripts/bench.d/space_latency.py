"""Foreground latency with compaction at work and without, in turns on one volume."""

import json

from load import Result, fio_args, median
from servers import Esker
from space_load import fill
from table import grid

MODES = ("off", "on")


def measure(bench, server, p, size):
    """p50 and p99 in ms of 4 KiB reads and writes at a fixed rate, both at once."""
    args = fio_args(server.uri("latency"), "randrw", "4k", 4, 1,
                    [f"--size={size}", f"--rate_iops={p.latency_iops},{p.latency_iops}", "--refill_buffers=1", "--time_based",
                     f"--runtime={p.latency_seconds}"])
    out = bench.run(args, timeout=p.latency_seconds + 120)
    result = Result(json.loads(out[out.index("{"):])["jobs"][0])
    at = lambda side, percent: side["clat_ns"]["percentile"][f"{percent:.6f}"] / 1e6
    return {f"{name} p{percent}": at(side, percent) for name, side in (("read", result.read), ("write", result.write))
            for percent in (50, 99)} | {"iops": result.read["iops"] + result.write["iops"]}


def compacted(server):
    space = server.volume_status("latency")["space"]
    return space["compaction_read"] + space["compaction_written"] if space else 0


def run(bench, s3d, p):
    """Turns of `--compact off` and `on`; what one leaves as garbage is work for the other."""
    size = int(p.latency_volume * p.fill)
    server = Esker(bench, s3d, {"latency": p.latency_volume}, p.space_journal, name="space-latency", pool="space",
                   serve_flags=["--compact", "off"])
    fill(bench, server, "latency", size)
    got = {mode: [] for mode in MODES}
    for n in range(p.latency_rounds):
        for mode in MODES:
            server.stop()
            server.serve_flags = ["--compact", mode, "--compact-slack", str(p.slack)]
            server.start()
            if mode == "off" or n == 0:
                dirty(bench, server, size)
            before = compacted(server)
            numbers = measure(bench, server, p, size)
            numbers["compacted"] = (compacted(server) - before) / p.latency_seconds / (1 << 20)
            got[mode].append(numbers)
    server.stop()
    lines = [[f"4 KiB at {p.latency_iops} reads and writes a second", "--compact off", "--compact on", "ratio of medians",
              "ratios of the rounds"]]
    for key in ("read p50", "read p99", "write p50", "write p99"):
        off, on = ([numbers[key] for numbers in got[mode]] for mode in MODES)
        ratios = " ".join(f"{b / a:.2f}" for a, b in zip(off, on))
        lines.append([f"{key}, ms", f"{median(off):.2f}", f"{median(on):.2f}", f"{median(on) / median(off):.2f}x", ratios])
    for key, what in (("iops", "IOPS reached"), ("compacted", "compaction read and wrote, MiB/s")):
        off, on = (median([numbers[key] for numbers in got[mode]]) for mode in MODES)
        lines.append([what, f"{off:,.1f}", f"{on:,.1f}", "", ""])
    print(f"\nForeground latency, {p.latency_rounds} round(s) of {p.latency_seconds} s each in turns, medians\n\n"
          f"{grid(lines, range(1, 4))}", flush=True)
    return got


def dirty(bench, server, size):
    """Overwrites a half of it, scattered: garbage for the next turn with compaction."""
    args = fio_args(server.uri("latency"), "randwrite", "4k", 16, 1,
                    [f"--size={size}", f"--io_size={size // 2}", "--refill_buffers=1"])
    bench.run(args)
    server.settle("latency")
