"""How many GETs a sequential read takes: as written in order, after random overwrites, and after compaction."""

from load import fio
from nbd import Nbd, timed
from servers import Esker
from space_load import fill
from space_watch import Watch
from table import grid

MIB = 1 << 20
VOLUME = "locality"


def gets(server):
    """GETs so far and their bytes, those that reads cause."""
    found = [r for r in server.status()["store"]["requests"] if r["name"] == "GET read"]
    return sum(r["count"] for r in found), sum(r["bytes"] for r in found)


def read_cold(server, size):
    """Reads the region in order after a restart; answers GETs, their bytes, and seconds."""
    server.restart()
    client, before = Nbd(server.uri(VOLUME)), gets(server)

    def all_of_it():
        for at in range(0, size, MIB):
            client.read(at, MIB)
    took, _ = timed(all_of_it)
    client.close()
    after = gets(server)
    return after[0] - before[0], after[1] - before[1], took


def run(bench, s3d, p):
    """A region like a file: written in order, a quarter of it overwritten at random, compacted."""
    size = int(p.locality_region)
    server = Esker(bench, s3d, {VOLUME: 2 * size}, p.space_journal, name="space-locality", pool="space",
                   serve_flags=["--compact", "off"])
    turns = []

    def turn(what):
        count, got, took = read_cold(server, size)
        turns.append({"what": what, "gets": count, "bytes": got, "seconds": took})

    fill(bench, server, VOLUME, size)
    turn("written in order")
    fio(bench, server.uri(VOLUME), "randwrite", "4k", 16, extra=[f"--size={size}", f"--io_size={size // 4}",
                                                                 "--refill_buffers=1"])
    server.settle(VOLUME)
    turn("a quarter overwritten, 4 KiB at random")
    server.serve_flags = ["--compact-slack", str(p.slack)]
    server.restart()
    Watch(server, s3d, VOLUME, "space", size).rest_alone(p.rest_seconds)
    turn("compacted by itself, at rest")
    bench.run([bench.esker_bin, "compact", VOLUME, "--control", server.control])
    turn("`esker compact`")
    server.stop()
    first = turns[0]["gets"]
    lines = [["a sequential read of it all", "GETs", "GETs per MiB", "by those of the first", "MiB read by MiB", "s"]]
    for t in turns:
        lines.append([t["what"], f"{t['gets']:,}", f"{t['gets'] * MIB / size:.2f}", f"{t['gets'] / max(first, 1):.2f}x",
                      f"{t['bytes'] / size:.2f}", f"{t['seconds']:.2f}"])
    print(f"\nLocality: {size >> 20} MiB, read with a cold cache\n\n{grid(lines, range(1, 6))}", flush=True)
    return turns
