"""Write and flush: latency, groups, steadiness."""

from load import fio, median, rates
from table import Row

OURS = ["esker file", "esker s3d", "esker s3d 20ms"]


def run(bench, server, jobs, seconds, tag):
    """Every 4 KiB write with its own flush. Answers fio's result and the operations of each second."""
    prefix = bench.work / f"flush-{tag}"
    result = fio(bench, server.uri("burst"), "randwrite", "4k", 1, jobs, seconds,
                 ["--size=64m", "--fsync=1", f"--write_iops_log={prefix}", "--log_avg_msec=1000"])
    return result, rates(prefix, jobs)


def one_put_ms(bench, store):
    """p50 of a 4 KiB PUT, as `esker check` measures it beside the pool."""
    import json
    url = store.url.rsplit("/", 1)[0] + "/check"
    out = bench.run([bench.esker_bin, "check", url, "--json", "--small", "50", "--large", "1", *store.flags],
                    env=store.env)
    return next(m["p50_ms"] for m in json.loads(out)["measured"] if m["name"] == "4 KiB PUT")


def flatness(per_second):
    """The slowest sixth of the run against its median, by windows; 1 is flat. None where the run is too short to say."""
    if len(per_second) < 12:
        return None
    width = max(len(per_second) // 12, 1)
    windows = [sum(per_second[i:i + width]) / width for i in range(0, len(per_second) - width + 1, width)]
    return min(windows) / max(median(windows), 1e-9)


def rows(bench, servers, stores, p):
    out, one, sixteen = [], {}, {}
    for column in OURS:
        # The slow store is the one where steadiness counts.
        seconds = p.flush_seconds if column == OURS[-1] else min(p.flush_seconds, 20)
        one[column] = run(bench, servers[column], 1, seconds, f"1-{OURS.index(column)}")
        sixteen[column] = run(bench, servers[column], 16, p.flush16_seconds, f"16-{OURS.index(column)}")
    slow = "esker s3d 20ms"
    put = one_put_ms(bench, stores[slow])
    p50 = {c: r.sync_ms(50) for c, (r, _) in one.items()}
    ratio = p50[slow] / put
    out.append(Row("flush of one dirty 4 KiB block, p50", "ms", p50, f"{ratio:.2f}x one PUT ({put:.1f} ms)",
                   "<= 1.2x at 20 ms", ratio <= 1.2))
    out.append(Row("the same, p99", "ms", {c: r.sync_ms(99) for c, (r, _) in one.items()}))
    flat = flatness(one[slow][1])
    series = " ".join(f"{v}" for v in one[slow][1][::max(len(one[slow][1]) // 12, 1)])
    out.append(Row(f"write + flush for {p.flush_seconds} s at 20 ms, 1 writer", "per s", {c: r.iops for c, (r, _) in one.items()},
                   "" if flat is None else f"slowest window {flat:.2f}x median", "flat for 120 s at 20 ms",
                   "not run" if flat is None or p.flush_seconds < 120 else flat >= 0.9, f"at 20 ms, per second: {series}"))
    times = {c: sixteen[c][0].iops / max(one[c][0].iops, 1e-9) for c in OURS}
    out.append(Row("write + flush, 16 writers", "per s", {c: r.iops for c, (r, _) in sixteen.items()},
                   f"{times[slow]:.1f}x one writer", ">= 12x at 20 ms", times[slow] >= 12))
    out.append(Row("flush with 16 writers, p50", "ms", {c: r.sync_ms(50) for c, (r, _) in sixteen.items()}))
    out.append(Row("flush with 16 writers, p99", "ms", {c: r.sync_ms(99) for c, (r, _) in sixteen.items()}))
    return out
