"""Two loads that are about objects and requests: flushes of 4 KiB, and discards of a whole huge volume."""

import os
import random
import time

from load import Background, fio_args
from nbd import Nbd, timed
from servers import Esker
from space_watch import BLOCK, Watch
from table import grid

TIB = 1 << 40
# What Linux sends at most for a BLKDISCARD: 2^32 bytes less a sector, to whole blocks.
LARGEST_TRIM = (1 << 32) - BLOCK


def flushes(bench, s3d, p):
    """4 KiB writes, each with its own flush: how many objects there are meanwhile, and in the end."""
    size = 256 << 20
    server = Esker(bench, s3d, {"flushes": size}, p.space_journal, name="space-flushes", pool="space",
                   serve_flags=["--compact-slack", str(p.slack)])
    watch = Watch(server, s3d, "flushes", "space", None)
    watch.begin()
    args = fio_args(server.uri("flushes"), "randwrite", "4k", 1, 1,
                    [f"--size={size}", "--fsync=1", f"--number_ios={p.flush_count}", "--refill_buffers=1"])
    load, next_line, most = Background(bench, "load-flushes", args), 0.0, 0
    while load.running():
        time.sleep(0.5)
        show = time.monotonic() >= next_line
        if show:
            next_line = time.monotonic() + p.every
        most = max(most, watch.sample(load.written(), show)["objects"])
    result = load.result()
    seconds, writes = result.write["runtime"] / 1000, result.write["total_ios"]
    settled, rested = watch.rest(result.write["io_bytes"], p.rest_seconds)
    agreement = watch.agreement()
    server.stop()
    print(f"\n4 KiB writes, each with its flush\n\n{watch.table()}")
    rate = writes / seconds
    print(f"\n{writes:,} flushed writes in {seconds:.0f} s ({rate:.0f} a second; an hour of this would be {rate * 3600:,.0f}): "
          f"at most {most:,} objects meanwhile, {settled['objects']:,} at rest"
          f"{'' if rested else ' (it did not come to rest in time)'}, target < 1,000; store and df "
          f"{'agree' if not agreement['difference'] else 'differ'}", flush=True)
    return {"writes": writes, "seconds": seconds, "most_objects": most, "settled": settled, "rested": rested,
            "agreement": agreement}


def trim_all(client):
    """The whole volume, as blkdiscard has the kernel do it, and a flush. Answers seconds of both, and the requests."""
    count = 0

    def trims():
        nonlocal count
        for at in range(0, client.size, LARGEST_TRIM):
            client.trim(at, min(LARGEST_TRIM, client.size - at))
            count += 1
    took, _ = timed(trims)
    flush, _ = timed(client.flush)
    return took, flush, count


def discards(bench, s3d, p):
    """Discards of 16 TiB: an empty volume as mkfs does it, and one with data all over."""
    size = 16 * TIB
    server = Esker(bench, s3d, {"huge": size}, p.space_journal, name="space-huge", pool="space",
                   serve_flags=["--compact-slack", str(p.slack)])
    client, draw = Nbd(server.uri("huge")), random.Random(3)
    watch = Watch(server, s3d, "huge", "space", None)
    watch.begin()
    lines = [["16 TiB", "NBD requests", "TRIMs, s", "flush, s", "requests to the store", "bytes PUT", "resident MiB before",
              "after"]]
    got = []
    for what in ("empty, as mkfs", f"{p.huge_pieces} MiB all over it", "once more"):
        if "all over" in what:
            for _ in range(p.huge_pieces):
                client.write(draw.randrange(size >> 20) << 20, os.urandom(1 << 20))
            server.settle("huge")
        before, asked, resident = watch.puts()["all"], s3d.counts()["total"], server.resident()
        took, flush, count = trim_all(client)
        total, put, after = s3d.counts()["total"] - asked, watch.puts()["all"] - before, server.resident()
        got.append({"what": what, "trims": count, "seconds": took, "flush_seconds": flush, "requests": total, "bytes": put,
                    "resident": [resident, after]})
        lines.append([what, f"{count:,}", f"{took:.2f}", f"{flush:.3f}", f"{total:,}", f"{put:,}", f"{resident >> 20:,}",
                      f"{after >> 20:,}"])
    client.close()
    settled, rested = watch.rest(1, p.rest_seconds)
    server.stop()
    print(f"\nDiscards\n\n{grid(lines, range(1, 8))}\n\nat rest the store holds {settled['own']:,} bytes in "
          f"{settled['objects']:,} objects{'' if rested else ' (it did not come to rest in time)'}; "
          "target: under a second, a handful of requests", flush=True)
    return {"turns": got, "settled": settled, "rested": rested}
