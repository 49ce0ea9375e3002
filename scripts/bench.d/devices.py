#!/usr/bin/env python3
"""4 KiB random I/O on block devices, side by side: /dev/ublkbN, our NBD server behind the kernel's NBD client, and peers.

To be run as root where the kernel has ublk and NBD; scripts/bench-devices does that in a guest. Prints one table, and
the same as JSON with --json FILE.

    devices.py --bins DIR [--rublk FILE] [--short] [--json FILE]
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

MIB = 1 << 20
FULL = SimpleNamespace(rounds=3, seconds=2, area=64 * MIB, queues=(1, 2), depths=(1, 32))
SHORT = SimpleNamespace(rounds=1, seconds=1, area=16 * MIB, queues=(1,), depths=(1, 32))
PASSWORD = "for this bench only"
# Seconds for a server to come up; the guest is slow.
PATIENCE = 120


class Failed(Exception):
    """Something does not run here; says what."""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 3, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def wait_for(what, ready):
    until = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > until:
            raise Failed(f"no {what} after {PATIENCE} s")
        time.sleep(0.05)


class Esker:
    """A volume in a file:// pool on tmpfs, as /dev/ublkbN."""

    def __init__(self, bins, work, name, queues, *flags):
        self.esker, self.name, self.url = str(bins / "esker"), name, f"file://{work}/pool"
        env = dict(os.environ, ESKER_PASSWORD=PASSWORD, HOME=str(work))
        self.call = lambda *words: run(self.esker, *words, env=env)
        if not (work / "pool").exists():
            self.call("format", self.url)
        self.call("volume", "create", self.url, name, "--size", "1G")
        out = self.call("attach", self.url, name, "--queues", str(queues), *flags)
        self.device = out.strip().splitlines()[-1]

    def pid(self):
        mine = [d for d in json.loads(self.call("list", "--json")) if d.get("volume") == self.name]
        return mine[0].get("pid") if mine else None

    def counters(self):
        """What the queues' threads have counted, summed."""
        for server in json.loads(self.call("status", "--json")):
            for volume in server.get("volumes", []):
                if volume.get("name") == self.name and volume.get("device"):
                    queues = volume["device"]["queues"]
                    return {key: sum(q[key] for q in queues) for key in queues[0]}
        return {}

    def close(self):
        self.call("detach", self.name)


class KernelNbd:
    """A server on a unix socket, behind the kernel's NBD client with as many connections as queues."""

    def __init__(self, number, socket, export, queues):
        self.device = f"/dev/nbd{number}"
        wait_for(f"socket {socket}", lambda: os.path.exists(socket))
        run("nbd-client", "-unix", socket, "-N", export, "-b", "4096", "-connections", str(queues), self.device)
        wait_for(self.device, lambda: Path(f"/sys/block/nbd{number}/size").read_text().strip() != "0")

    def close(self):
        run("nbd-client", "-d", self.device)


class EskerNbd(KernelNbd):
    """Our own NBD server."""

    def __init__(self, bins, work, name, queues, number):
        env = dict(os.environ, ESKER_PASSWORD=PASSWORD, HOME=str(work))
        url, socket = f"file://{work}/pool", f"{work}/{name}.sock"
        run(str(bins / "esker"), "volume", "create", url, name, "--size", "1G", env=env)
        log = open(work / f"{name}.log", "w")
        self.server = subprocess.Popen([str(bins / "esker"), "serve", url, name, "--unix", socket], env=env,
                                       stdout=log, stderr=log)
        super().__init__(number, socket, name, queues)

    def close(self):
        super().close()
        self.server.terminate()
        self.server.wait(PATIENCE)


class NbdkitMemory(KernelNbd):
    """nbdkit's memory plugin."""

    def __init__(self, work, queues, number):
        socket = f"{work}/nbdkit{queues}.sock"
        self.server = subprocess.Popen(["nbdkit", "-f", "-U", socket, "memory", "1G"])
        super().__init__(number, socket, "", queues)

    def close(self):
        super().close()
        self.server.terminate()
        self.server.wait(PATIENCE)


class Rublk:
    """A target of rublk: null, or loop on a file in tmpfs."""

    def __init__(self, rublk, kind, queues, *flags):
        self.rublk = rublk
        before = set(Path("/sys/class/ublk-char").glob("*"))
        run(rublk, "add", kind, "-q", str(queues), "-d", "128", *flags)
        wait_for(f"rublk {kind}", lambda: set(Path("/sys/class/ublk-char").glob("*")) - before)
        new = (set(Path("/sys/class/ublk-char").glob("*")) - before).pop().name
        self.number = re.sub(r"\D", "", new)
        self.device = f"/dev/ublkb{self.number}"
        wait_for(self.device, lambda: os.path.exists(self.device))

    def close(self):
        run(self.rublk, "del", "-n", self.number)


def fio(device, mode, depth, area, seconds):
    """IOPS of 4 KiB random I/O."""
    out = run("fio", "--name=b", f"--filename={device}", f"--rw={mode}", "--bs=4k", "--direct=1", f"--size={area}",
              "--ioengine=io_uring", f"--iodepth={depth}", "--time_based", f"--runtime={seconds}", "--refill_buffers=0",
              "--norandommap=1", "--randrepeat=0", "--output-format=json")
    job = json.loads(out[out.index("{"):])["jobs"][0]
    if job["error"]:
        raise Failed(f"fio on {device}: error {job['error']}")
    return job["read" if mode == "randread" else "write"]["iops"]


def bring_up(options, work, queues):
    """All that can be had here, and why the rest cannot."""
    makers = {
        "esker ublk": lambda: Esker(options.bins, work, f"user{queues}", queues, "--copy", "user"),
        "esker ublk, kernel copy": lambda: Esker(options.bins, work, f"kernel{queues}", queues, "--copy", "kernel"),
        "esker NBD": lambda: EskerNbd(options.bins, work, f"nbd{queues}", queues, 0),
        "nbdkit memory, NBD": lambda: NbdkitMemory(work, queues, 1),
    }
    if options.rublk:
        backing = work / "loop.img"
        with open(backing, "wb") as f:
            f.truncate(1 << 30)
        makers["rublk null"] = lambda: Rublk(options.rublk, "null", queues)
        makers["rublk loop"] = lambda: Rublk(options.rublk, "loop", queues, "-f", str(backing), "--buffered-io")
    targets, missing = {}, {}
    for name, make in makers.items():
        try:
            targets[name] = make()
            # Mapped, and in memory: reads find it there.
            run("dd", "if=/dev/urandom", f"of={targets[name].device}", "bs=1M", f"count={options.p.area // MIB}",
                "oflag=direct", "conv=fsync")
        except (Failed, OSError, subprocess.TimeoutExpired) as why:
            missing[name] = str(why)
    return targets, missing


def cost(target, device, options):
    """What one warm read at depth 1 costs the daemon: CPU time, and waits of its queue threads."""
    pid = target.pid()
    ticks = lambda: sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    before, count = ticks(), target.counters()
    fio(device, "randread", 1, options.p.area, options.p.seconds)
    spent, after = ticks() - before, target.counters()
    reads = after["reads"] - count["reads"]
    idle = ticks()
    time.sleep(5)
    return {"reads": reads, "cpu_us_per_read": spent * 1e6 / os.sysconf("SC_CLK_TCK") / reads,
            "waits_per_read": (after["sleeps"] - count["sleeps"]) / reads,
            "rings_per_read": (after["rings"] - count["rings"]) / reads,
            "idle_ticks_in_5_s": ticks() - idle}


def measure(options, work):
    rows, missing, costs = [], {}, {}
    for queues in options.p.queues:
        targets, absent = bring_up(options, work, queues)
        missing.update(absent)
        for mode in ("randread", "randwrite"):
            for depth in options.p.depths:
                got = {name: [] for name in targets}
                names = list(targets)
                for n in range(options.p.rounds):
                    for name in names[n % len(names):] + names[:n % len(names)]:
                        got[name].append(fio(targets[name].device, mode, depth, options.p.area, options.p.seconds))
                        run("sync", targets[name].device)
                        # What was written goes to the pool before the next has its turn.
                        time.sleep(2 if mode == "randwrite" else 0)
                rows.append({"what": mode, "depth": depth, "queues": queues, "iops": got})
                print(f"{mode} depth {depth}, {queues} queues: "
                      + ", ".join(f"{k} {statistics.median(v):,.0f}" for k, v in got.items()), file=sys.stderr)
        if "esker ublk" in targets:
            costs[queues] = cost(targets["esker ublk"], targets["esker ublk"].device, options)
        for target in targets.values():
            target.close()
    return rows, missing, costs


def ratio(iops, peer, ours="esker ublk"):
    """The median of the ratios within a round, which noise disturbs less than that of the medians."""
    if ours not in iops or peer not in iops:
        return None
    return statistics.median(a / b for a, b in zip(iops[ours], iops[peer]))


def table(rows):
    names = sorted({name for row in rows for name in row["iops"]}, key=lambda n: (not n.startswith("esker"), n))
    lines = [["4 KiB", "depth", "queues", *names, "to our NBD", ">= 1.5", "to null", ">= 0.7"]]
    for row in rows:
        cells = [f"{statistics.median(row['iops'][n]):,.0f}" if n in row["iops"] else "-" for n in names]
        for peer, budget in (("esker NBD", 1.5), ("rublk null", 0.7)):
            r = ratio(row["iops"], peer)
            cells += ["-", "not run"] if r is None else [f"{r:.2f}x", "met" if r >= budget else "missed"]
        lines.append([row["what"], str(row["depth"]), str(row["queues"]), *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in lines]
    return "\n".join([text[0], "| " + " | ".join("-" * w for w in widths) + " |", *text[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=Path, required=True)
    parser.add_argument("--rublk")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.p = SHORT if options.short else FULL
    missing = [tool for tool in ("fio", "nbdkit", "nbd-client") if not shutil.which(tool)]
    if missing:
        sys.exit(f"devices.py: missing: {', '.join(missing)} (scripts/setup installs them)")
    work = Path(tempfile.mkdtemp(prefix="esker-devices.", dir="/dev/shm"))
    rows, missing, costs = measure(options, work)
    print(f"IOPS, medians of {options.p.rounds} rounds of {options.p.seconds} s; Linux {os.uname().release}, "
          f"{os.cpu_count()} processors\n")
    print(table(rows))
    for queues, c in costs.items():
        print(f"- a warm read at depth 1, {queues} queues: {c['cpu_us_per_read']:.0f} us of the daemon's CPU, "
              f"{c['waits_per_read']:.2f} waits of its threads, {c['rings_per_read']:.2f} wake-ups by eventfd "
              f"({c['reads']} reads); idle: {c['idle_ticks_in_5_s']} ticks of CPU in 5 s")
    for name, why in missing.items():
        print(f"- not run: {name}: {why}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "missing": missing, "costs": costs}))
    # What is ours must run; a peer may be missing.
    if any(name.startswith("esker") for name in missing):
        sys.exit(1)


if __name__ == "__main__":
    main()
