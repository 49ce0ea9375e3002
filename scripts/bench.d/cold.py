"""Cold reads and recovery on a store at 20 ms; round trips are counted, which noise does not disturb."""

import os
import random

from load import fio
from nbd import Nbd, timed
from servers import Esker, Failed
from table import Row

BLOCK = 4096
SLOW = "esker s3d 20ms"
TRIP_MS = 20.0
# Sequential steps are counted at a delay beside which the time that a busy machine needs is nothing.
COUNT_AT = "200ms"


def round_trips(entries):
    """How many requests had to follow one another: the count that s3d makes too."""
    trips, last = 0, None
    for end, begin in sorted((seconds(e["end"]), seconds(e["begin"])) for e in entries):
        if last is None or begin >= last:
            trips, last = trips + 1, end
    return trips


def seconds(duration):
    return duration["secs"] + duration["nanos"] / 1e9


def cold_random(bench, s3d, p):
    """4 KiB reads all over a volume that was written in order and then attached anew."""
    s3d.delay(None)
    esker = Esker(bench, s3d, {"cold": p.cold}, p.journal, name="cold-random", pool="cold")
    fio(bench, esker.uri("cold"), "write", "128k", 16, 4,
        extra=["--offset_increment=25%", "--size=25%", "--refill_buffers=1"])
    esker.settle("cold")
    esker.restart(cache=1 << 20)
    # One read in every leaf's range, so that the map is resident.
    client = Nbd(esker.uri("cold"))
    for at in range(0, p.cold, 16 << 20):
        client.read(at, BLOCK)
    client.close()
    s3d.delay("20ms")
    s3d.forget()
    result = fio(bench, esker.uri("cold"), "randread", "4k", 32, 1, p.cold_seconds, [f"--size={p.cold}"])
    gets = s3d.counts()["total"] / result.ios
    esker.kill()
    best = 32 / (TRIP_MS / 1000)
    ratio = result.iops / best
    return Row("cold random read 4 KiB, depth 32, 1 conn", "IOPS", {SLOW: result.iops}, f"{ratio:.2f}x 32 / 20 ms",
               ">= 0.8x", ratio >= 0.8, f"a volume of {p.cold / (1 << 30):.2g} GiB where the budget says 64, leaves resident; "
               f"{gets:.2f} requests a read")


def scattered(bench, s3d, p):
    """One read of 1 MiB whose 256 blocks lie in as many objects."""
    s3d.delay(None)
    esker = Esker(bench, s3d, {"scattered": 1 << 30}, p.journal, name="scattered", pool="scattered")
    client = Nbd(esker.uri("scattered"))
    blocks = list(range(256))
    random.Random(7).shuffle(blocks)
    want = bytearray(256 * BLOCK)
    for n in blocks:
        want[n * BLOCK:(n + 1) * BLOCK] = data = os.urandom(BLOCK)
        client.write(n * BLOCK, data)
        client.flush()
    client.close()

    def read(delay):
        s3d.delay(None)
        esker.restart()
        s3d.delay(delay)
        client = Nbd(esker.uri("scattered"))
        s3d.forget()
        took, got = timed(lambda: client.read(0, 256 * BLOCK))
        client.close()
        if got != want:
            raise Failed("the scattered read answers wrong data")
        return took, s3d.log()

    took = read("20ms")[0]
    entries = read(COUNT_AT)[1]
    esker.kill()
    trips = round_trips(entries)
    return Row("cold read of 1 MiB in 256 scattered pieces", "ms", {SLOW: took * 1000}, f"{trips} round trips",
               "<= 3 round trips", trips <= 3, f"{len(entries)} requests; round trips counted at {COUNT_AT}")


def attach(bench, s3d, p):
    """From an open pool to the first read, after kill -9 with a long log and writes in the journal."""
    s3d.delay(None)
    esker = Esker(bench, s3d, {"log": 4 << 30}, p.journal, name="attach", pool="attach")
    fio(bench, esker.uri("log"), "randwrite", "128k", 16, 1,
        extra=["--size=4g", f"--io_size={p.log}", "--refill_buffers=1"])
    esker.settle("log")

    def recover(delay):
        s3d.delay(delay)
        client = Nbd(esker.uri("log"))
        for n in range(16):
            client.write(n << 20, os.urandom(BLOCK))
        esker.kill()
        s3d.forget()
        esker.start()
        client = Nbd(esker.uri("log"))
        client.read(3 << 30, BLOCK)
        client.close()
        # Opening the pool (its record, the catalogue) comes first; the probe runs beside the recovery.
        mine = [e for e in s3d.log() if e["key"].split("/", 1)[-1].split("/")[0] in ("log", "data", "snapshots")]
        return max(seconds(e["end"]) for e in mine) - min(seconds(e["begin"]) for e in mine), mine

    segments = esker.volume_status("log")["segments_since_checkpoint"]
    took = recover("20ms")[0]
    mine = recover(COUNT_AT)[1]
    esker.kill()
    trips = round_trips(mine)
    return Row(f"attach after kill -9 with {p.log >> 20} MiB of log, first read included", "ms", {SLOW: took * 1000},
               f"{trips} round trips", "<= 6 round trips", trips <= 6,
               f"{segments} segments since the checkpoint; {len(mine)} requests; round trips counted at {COUNT_AT}")


def rows(bench, s3d, p):
    out = []
    for measure in (cold_random, scattered, attach):
        out.append(measure(bench, s3d, p))
        bench.empty(s3d)
    return out
