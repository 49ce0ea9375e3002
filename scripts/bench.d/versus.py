"""The same load on every server, one after the other, several rounds: rates and ratios."""

from load import fio, median
from servers import Esker
from table import COLUMNS, Row

READ_BUDGET, WRITE_BUDGET = 1.0, 0.9


def prefill(bench, servers, volume, size):
    """Fills `volume` with incompressible data, so that reads are warm and writes overwrite."""
    for server in servers.values():
        fio(bench, server.uri(volume), "write", "128k", depth=8,
            extra=[f"--size={size}", "--refill_buffers=1", "--norandommap=0"])
        server.settle(volume)


def compare(servers, rounds, measure, settle=None):
    """`measure(server)` on each server in each round, the order turning. Answers lists of rates by column."""
    got = {column: [] for column in servers}
    order = list(servers)
    for n in range(rounds):
        for column in order[n % len(order):] + order[:n % len(order)]:
            got[column].append(measure(servers[column]))
            if settle:
                servers[column].settle(settle)
    return got


def row(what, unit, got, budget=None):
    """A line with medians; ratios are medians of those within a round, which noise disturbs less."""
    cells = {column: median(values) for column, values in got.items()}
    ratios = {}
    for column in COLUMNS[2:]:
        if column in got:
            ratios[column] = median([a / b for a, b in zip(got[column], got["nbdkit memory"])])
    ratio = " ".join(f"{r:.2f}" for r in ratios.values()) + "x memory"
    if budget is None:
        return Row(what, unit, cells, ratio)
    return Row(what, unit, cells, ratio, f">= {budget:.1f}x, each", min(ratios.values()) >= budget)


def rows(bench, servers, p):
    """All comparisons. `servers`: by column, with volumes `warm` and `burst` of at least p.warm and p.burst bytes."""
    prefill(bench, servers, "warm", p.warm)
    out = []
    for depth in (1, 32):
        for jobs in (1, 4):
            def read(server):
                return fio(bench, server.uri("warm"), "randread", "4k", depth, jobs, p.seconds,
                           [f"--size={p.warm}"]).iops
            fio(bench, servers["nbdkit memory"].uri("warm"), "randread", "4k", depth, jobs, 0.2, [f"--size={p.warm}"])
            got = compare(servers, p.rounds, read)
            out.append(row(f"warm random read 4 KiB, depth {depth}, {jobs} conn", "IOPS", got, READ_BUDGET))
    prefill(bench, servers, "burst", p.burst)
    for depth in (1, 32):
        for jobs in (1, 4):
            def burst(server):
                return fio(bench, server.uri("burst"), "randwrite", "4k", depth, jobs, None,
                           [f"--size={p.burst}", f"--io_size={p.burst // jobs}"]).iops
            got = compare(servers, p.rounds, burst, settle="burst")
            what = f"random write 4 KiB, burst of {p.burst >> 20} MiB, depth {depth}, {jobs} conn"
            out.append(row(what, "IOPS", got, WRITE_BUDGET))
    for rw, name in (("read", "warm sequential read 128 KiB, depth 8"), ("write", "sequential write 128 KiB, depth 8")):
        volume, size = ("warm", p.warm) if rw == "read" else ("stream", p.stream)
        def stream(server):
            seconds = p.seconds if rw == "read" else p.stream_seconds
            return fio(bench, server.uri(volume), rw, "128k", 8, 1, seconds,
                       [f"--size={size}", "--refill_buffers=1"]).bytes_per_s / 1e6
        out.append(row(name, "MB/s", compare(servers, p.rounds, stream, settle=None if rw == "read" else volume)))
    return out


def resident(servers):
    cells = {column: s.resident() / 1e6 for column, s in servers.items() if isinstance(s, Esker)}
    return Row("resident memory after all this (journals and caches included)", "MB", cells)
