"""What is sent to the store: how fast, how much, and nothing when idle."""

import json
import time

from load import fio
from nbd import Nbd, timed
from servers import Esker
from table import Row

FAST = "esker s3d"


def raw_put(bench, s3d, p):
    """MB/s of 8 MiB PUTs, eight at a time."""
    out = bench.run([bench.esker_bin, "check", "s3://esker/check", "--json", "--small", "1", "--large", p.raw_puts,
                     *s3d.flags], env=s3d.env)
    return next(m["bytes_per_second"] for m in json.loads(out)["measured"] if m["name"] == "8 MiB PUT") / 1e6


def sealing(bench, seal_speed, p):
    """MB/s of compress + seal on all cores, for whole extents and for single blocks."""
    sealed = json.loads(bench.run([seal_speed, p.seal_seconds]))
    return sealed["extents_bytes_per_s"] / 1e6, sealed["blocks_bytes_per_s"] / 1e6


def against(bench, esker, s3d, p, what, rw, bs, depth, jobs, seal):
    """A stream longer than the journal, to its last byte in the store, against the slower of both ceilings."""
    esker.settle("burst")
    put = raw_put(bench, s3d, p)
    result = fio(bench, esker.uri("burst"), rw, bs, depth, jobs,
        extra=[f"--size={p.volume}", f"--io_size={p.sustained // jobs}", "--refill_buffers=1"])
    client = Nbd(esker.uri("burst"))
    flush, _ = timed(client.flush)
    client.close()
    # Without the time that fio takes to start and to end.
    rate = p.sustained / (result.write["runtime"] / 1000 + flush) / 1e6
    # Before and after: what else the machine does changes meanwhile.
    put = (put + raw_put(bench, s3d, p)) / 2
    ratio = rate / min(put, seal)
    return Row(what, "MB/s", {FAST: rate}, f"{ratio:.2f}x the slower", ">= 0.8x raw PUT, sealing", ratio >= 0.8,
               f"raw parallel PUT {put:.0f} MB/s, compress + seal on all cores {seal:.0f} MB/s; client, server and store "
               "share the machine's cores, the ceilings each had them alone")


def idle(esker, s3d, seconds):
    esker.settle("burst")
    # The checkpoint that a segment has to name, and the like.
    time.sleep(min(seconds, 3))
    s3d.forget()
    time.sleep(seconds)
    per_minute = s3d.counts()["total"] * 60 / seconds
    return Row("requests of an idle attached volume", "per min", {FAST: per_minute}, "", "0", per_minute == 0,
               f"counted for {seconds} s")


def amplification(bench, s3d, p):
    """Bytes PUT for random incompressible 4 KiB writes, with the checkpoint of a clean detach."""
    esker = Esker(bench, s3d, {"amp": 64 << 30}, p.journal, name="amplification", pool="amplification")
    before = s3d.counts()["bytes_in"]
    fio(bench, esker.uri("amp"), "randwrite", "4k", 32, 2,
        extra=["--size=64g", f"--io_size={p.random_bytes // 2}", "--refill_buffers=1"])
    esker.settle("amp")
    written = s3d.counts()["bytes_in"] - before
    esker.stop()
    whole = s3d.counts()["bytes_in"] - before
    ratio = whole / p.random_bytes
    return Row("bytes PUT per byte of random 4 KiB writes, incompressible", "ratio", {FAST: ratio},
               f"{written / p.random_bytes:.3f} without the last nodes", "<= 1.1", ratio <= 1.1,
               f"{p.random_bytes >> 20} MiB over a device of 64 GiB, one checkpoint at the end included; scaled down")


def rows(bench, esker, s3d, seal_speed, p):
    extents, blocks = sealing(bench, seal_speed, p)
    whole = f"{p.sustained >> 20} MiB to the last byte in the store"
    return [against(bench, esker, s3d, p, f"sequential write, {whole}", "write", "128k", 16, 1, extents),
            against(bench, esker, s3d, p, f"random write 4 KiB, {whole}", "randwrite", "4k", 32, 4, blocks),
            idle(esker, s3d, p.idle_seconds), amplification(bench, s3d, p)]
