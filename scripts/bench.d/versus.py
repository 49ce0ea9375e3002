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


def reads(servers, p, depth, jobs):
    """Warm random reads."""
    def read(server):
        return fio(server.bench, server.uri("warm"), "randread", "4k", depth, jobs, p.seconds, [f"--size={p.warm}"]).iops
    what = f"warm random read 4 KiB, depth {depth}, {jobs} conn"
    return row(what, "IOPS", compare(servers, p.rounds, read), READ_BUDGET)


def bursts(servers, p, depth, jobs):
    """Random writes that the journal holds."""
    def burst(server):
        return fio(server.bench, server.uri("burst"), "randwrite", "4k", depth, jobs, None,
                   [f"--size={p.burst}", f"--io_size={p.burst // jobs}"]).iops
    what = f"random write 4 KiB, burst of {p.burst >> 20} MiB, depth {depth}, {jobs} conn"
    return row(what, "IOPS", compare(servers, p.write_rounds, burst, settle="burst"), WRITE_BUDGET)


def streams(servers, p):
    """128 KiB requests in order."""
    def read(server):
        return fio(server.bench, server.uri("warm"), "read", "128k", 8, 1, p.seconds, [f"--size={p.warm}"]).bytes_per_s / 1e6

    def write(server):
        return fio(server.bench, server.uri("burst"), "write", "128k", 8, 1, None,
                   [f"--size={p.stream}", "--refill_buffers=1"]).bytes_per_s / 1e6
    return [row("warm sequential read 128 KiB, depth 8", "MB/s", compare(servers, p.rounds, read)),
            row(f"sequential write 128 KiB, depth 8, {p.stream >> 20} MiB", "MB/s",
                compare(servers, p.stream_rounds, write, settle="burst"))]


def rows(bench, servers, p):
    """All comparisons. `servers`: by column, with volumes `warm` and `burst`."""
    prefill(bench, servers, "warm", p.warm)
    out = [reads(servers, p, depth, jobs) for depth, jobs in p.shapes]
    if not p.short:
        prefill(bench, servers, "burst", p.burst)
    out += [bursts(servers, p, depth, jobs) for depth, jobs in p.shapes]
    return out + streams(servers, p)


def resident(servers, p):
    """Memory beyond what was asked for: journals and what the caches hold."""
    cells = {}
    for column, server in servers.items():
        if isinstance(server, Esker):
            asked = sum(p.journal + server.volume_status(v)["cache_used"] for v in server.volumes)
            cells[column] = (server.resident() - asked) / 1e6
    return Row("resident memory after all this, beyond journals and caches", "MB", cells)
