"""`scripts/bench space`: what volumes take in the store over time, and what giving it back costs."""

import space_latency
import space_locality
import space_requests
import space_theory
from servers import S3, Esker
from space_load import FilesByNbd, FilesOnExt4, FioLoad
from space_watch import Watch
from table import grid

MIB = 1 << 20
POOL = "space"
# How skewed the loads are that theory speaks of.
THETAS = {"uniform": 0.0, "zipf": 1.2}


def loads(p):
    """Name, load, target for the space amplification while it runs steadily and after."""
    missing = FilesOnExt4.missing()
    if missing:
        print(f"skipped ext4: {missing}; its requests are replayed over NBD", flush=True)
    big, other, passes = p.space_volume, p.other_volume, p.passes
    files = FilesByNbd(other) if missing else FilesOnExt4(other)
    return [
        ("uniform", "uniform random 4 KiB", FioLoad("randwrite", "4k", 16, passes, big), 1.3),
        ("zipf", "zipfian 4 KiB, theta 1.2", FioLoad("randwrite", "4k", 16, passes * 2, big, "--random_distribution=zipf:1.2", rate=p.zipf_rate), 1.15),
        ("sequential", "sequential 128 KiB", FioLoad("write", "128k", 8, 3, other), None),
        ("database", "random 8 KiB, a flush after each 8",
         FioLoad("randwrite", "8k", 1, passes, other, "--fsync=8", flushed=True), None),
        ("files", "mkfs, files, fstrim by NBD" if missing else "ext4: mkfs, files, rm, fstrim", files, None),
    ]


def one(bench, s3d, p, name, what, load):
    """Runs a load and lets the volume come to rest. Answers what came of it."""
    print(f"\n{what}\n", flush=True)
    server = Esker(bench, s3d, {name: load.volume}, p.space_journal, name=f"space-{name}", pool=POOL,
                   serve_flags=["--compact-slack", str(p.slack)])
    watch = Watch(server, s3d, name, POOL, None)
    written = load.run(bench, server, name, p, watch)
    loaded = watch.samples[-1]
    settled, rested = watch.rest(written, p.rest_seconds)
    agreement = watch.agreement()
    server.stop()
    bench.empty(s3d)
    print(watch.table())
    if not rested:
        print(f"did not come to rest within {p.rest_seconds} s")
    print(explain(agreement), flush=True)
    # The first pass only makes garbage: steady is what comes after.
    steady = [s for s in watch.samples if s["client"] > written * 0.4 and s["seconds"] <= loaded["seconds"]] or [loaded]
    return {"name": name, "what": what, "written": written, "lines": watch.lines, "agreement": agreement, "rested": rested,
            "steady": mean(s["space_amp"] for s in steady), "kept": mean(s["kept_amp"] for s in steady),
            "peak": max(s["space_amp"] for s in watch.samples if s["client"]),
            "loaded": loaded, "settled": settled, "cleaning": cleaning(steady)}


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def cleaning(steady):
    """Bytes that compaction PUT per byte of the client, and per byte of the log, between the first and the last of these
    samples."""
    first, last = steady[0], steady[-1]
    grown = lambda *causes: sum(last["put"].get(c, 0) - first["put"].get(c, 0) for c in causes)
    client, log = last["client"] - first["client"], grown("flush", "stream")
    return tuple(grown("compaction") / n if n else None for n in (client, log))


def explain(agreement):
    """The store's count beside the accounts, and what makes the difference."""
    df, (objects, size) = agreement["df"], agreement["segments"]
    same = not agreement["difference"] and objects == df["objects"]
    word = "agree" if same else f"differ by {agreement['difference']:,} bytes"
    openings, rest = agreement["openings"], agreement["other"]
    return (f"\nat rest: the store has {size:,} bytes in {objects:,} segments, esker df says {df['stored']:,} in "
            f"{df['objects']:,}: they {word}. Beside them {openings[1]:,} bytes in {openings[0]} openings, "
            f"{rest[1]:,} in {rest[0]} objects of the pool, which df does not count.")


def summary(results, targets):
    """A line per load: amplification of space beside the target, and of writes by cause."""
    head = ["load", "written MiB", "space amp, steady", "without dead", "peak", "at rest", "target", "write amp, steady",
            "with all at rest", "log", "compaction", "checkpoint", "objects at rest"]
    lines = [head]
    for r in results:
        put, client, target = r["settled"]["put"], r["written"], targets[r["name"]]
        share = lambda *causes: f"{sum(put.get(c, 0) for c in causes) / client:.3f}"
        space = [f"{n:.2f}" for n in (r["steady"], r["kept"], r["peak"], r["settled"]["space_amp"])]
        writes = [f"{r[when]['write_amp']:.2f}" for when in ("loaded", "settled")]
        lines.append([r["what"], f"{client / MIB:,.0f}", *space, f"<= {target}" if target else "-", *writes,
                      share("flush", "stream"), share("compaction"), share("checkpoint"), f"{r['settled']['objects']:,}"])
    return grid(lines, range(1, len(head)))


def theory(results):
    """Cleaning beside what the books say it costs at the same space amplification."""
    head = ["load", "when", "space amp, without dead", "compaction PUT / client", "compaction PUT / log", "greedy, formula",
            "cost-benefit, simulated", "live share of the cleaned"]
    lines = [head]

    def line(what, when, amp, theta, measured=("", "")):
        total = space_theory.greedy(amp) if theta == 0 else None
        simulated = space_theory.simulated(amp, theta)
        share = space_theory.cleaned_utilization(1 + simulated)
        formula = f"{total - 1:.2f}" if total else "-"
        lines.append([what, when, f"{amp:.3f}", *measured, formula, f"{simulated:.2f}", f"{share:.2f}"])

    for r in results:
        theta = THETAS[r["name"]]
        put = r["settled"]["put"]
        log, compaction = put.get("flush", 0) + put.get("stream", 0), put.get("compaction", 0)
        whole = (f"{compaction / r['written']:.2f}", f"{compaction / log:.2f}")
        line(r["what"], "steady", r["kept"], theta, tuple("-" if n is None else f"{n:.2f}" for n in r["cleaning"]))
        line("", "with its rest", r["settled"]["space_amp"], theta, whole)
        line("", "in theory", 1.2, theta)
        line("", "in theory", 1.3, theta)
    return grid(lines, range(2, len(head)))


def run(bench, p, only=None):
    """Measures and prints all of it; answers it for --json."""
    s3d = S3(bench, "s3d-space")
    print(f"volumes of {p.space_volume >> 20} MiB (uniform, zipfian) and {p.other_volume >> 20} MiB, {p.fill:.0%} of it filled; "
          f"--compact-slack {p.slack >> 20}M and --journal-size {p.space_journal >> 20}M in proportion (the defaults are 32M and "
          f"up to 256M), segments of 8 MiB as ever; loads without flushes held to {p.rate}B/s\n"
          "space amp: the store's own bytes by the bytes that the client knows to live (ext4: of its files); without dead: less "
          "what only waits to be deleted; write amp: bytes PUT by bytes written")
    results, targets = [], {}
    out = {}
    for name, what, load, target in loads(p):
        if only and name not in only:
            continue
        targets[name] = target
        results.append(one(bench, s3d, p, name, what, load))
    if results:
        print(f"\nAll loads\n\n{summary(results, targets)}")
    skewed = [r for r in results if r["name"] in THETAS]
    if skewed:
        print(f"\nCleaning and theory\n\n{theory(skewed)}", flush=True)
    out["loads"] = results
    parts = {"latency": space_latency.run, "locality": space_locality.run, "flushes": space_requests.flushes,
             "discards": space_requests.discards}
    for name, part in parts.items():
        if not only or name in only:
            out[name] = part(bench, s3d, p)
            bench.empty(s3d)
    bench.end(s3d.child)
    return out
