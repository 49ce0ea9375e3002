"""What a volume takes, seen from three sides: its client, esker's accounts, and the store itself."""

import json
import os
import time

from servers import Failed
from table import grid

MIB = 1 << 20
BLOCK = 4096
HEAD = ["s", "client MiB", "live", "stored", "garbage", "dead", "the store's own MiB", "objects", "store/stored", "space amp",
        "without dead", "write amp"]


def census(objects, pool):
    """Objects and bytes below a pool as the store has them: its files, counted by their keys."""
    found = {"segments": [0, 0], "openings": [0, 0], "other": [0, 0]}
    root = objects / pool
    for where, _, names in os.walk(root):
        parts = os.path.relpath(where, root).split(os.sep)
        for name in names:
            try:
                size = os.stat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue  # deleted while we look
            kind = "other"
            if parts[0] in ("log", "data"):
                # Sequence 0 of a log is its opening. Nothing is sealed while one server has the volume.
                kind = "openings" if parts[0] == "log" and is_opening(name) else "segments"
            found[kind][0] += 1
            found[kind][1] += size
    return found


def is_opening(name):
    return int(name, 16) == 0


class Watch:
    """Samples of one volume on one server; a line each."""

    def __init__(self, esker, s3d, volume, pool, live, say=print):
        self.esker, self.s3d, self.volume, self.pool, self.say = esker, s3d, volume, pool, say
        # Bytes that the volume holds, as its client knows; None: it says nothing of that, and esker's count is taken.
        self.live = live
        self.lines, self.samples = [], []
        self.began, self.before = None, None

    def begin(self):
        """From here on bytes and time count."""
        self.began, self.before = time.monotonic(), self.puts()

    def puts(self):
        """Bytes PUT so far: in all, as the store has received them, and by cause as esker counts."""
        requests = self.esker.status()["store"]["requests"]
        causes = {r["name"][4:]: r["bytes"] for r in requests if r["name"].startswith("PUT ")}
        return {"all": self.s3d.counts()["bytes_in"], **causes}

    def sample(self, client, show=True):
        """One line. `client`: bytes that the client has written since the beginning."""
        status = self.esker.volume_status(self.volume)
        space = status["space"]
        found = census(self.s3d.objects, self.pool)
        objects, own = (sum(v[i] for v in found.values()) for i in (0, 1))
        live = self.live or space["live"]
        now = self.puts()
        put = {cause: now[cause] - self.before.get(cause, 0) for cause in now}
        s = {"seconds": time.monotonic() - self.began, "client": client, "live": space["live"], "stored": space["stored"],
             "garbage": max(space["stored"] - space["live"] - space["dead"], 0), "dead": space["dead"],
             "dead_objects": space["dead_objects"], "own": own, "objects": objects, "segments": found["segments"],
             "openings": found["openings"], "other": found["other"], "space_amp": own / live if live else 0.0,
             "kept_amp": max(own - space["dead"], 0) / live if live else 0.0,
             "write_amp": put["all"] / client if client else 0.0, "put": put,
             "compaction": [space[k] for k in ("compaction_read", "compaction_written", "compacted_segments", "deleted_objects")],
             "unsaved_segments": status["segments_since_checkpoint"]}
        self.samples.append(s)
        if show:
            self.lines.append(s)
        return s

    def rest_alone(self, seconds):
        """Waits until nothing changes any more, of a volume to which nobody writes."""
        self.begin()
        return self.rest(0, seconds)

    def rest(self, client, seconds, quiet=14):
        """Waits until nothing changes any more; answers the last sample, and whether it came to rest in time."""
        same_since, last = time.monotonic(), None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            s = self.sample(client, show=False)
            state = (s["own"], s["objects"], s["put"]["all"], s["stored"], s["compaction"])
            if state != last:
                last, same_since = state, time.monotonic()
            elif time.monotonic() - same_since > quiet and s["dead_objects"] == 0:
                self.lines.append(s)
                return s, True
            time.sleep(1)
        self.lines.append(s)
        return s, False

    def table(self):
        """All lines, as a table."""
        return grid([HEAD] + [texts(s) for s in self.lines], range(len(HEAD)))

    def agreement(self):
        """The store's own bytes of segments beside the accounts' STORED, now that it rests."""
        out = self.esker.bench.run([self.esker.bench.esker_bin, "df", "--json", "--control", self.esker.control])
        df = next((row for row in json.loads(out) if row["volume"] == self.volume), None)
        if df is None or "stored" not in df:
            raise Failed(f"esker df says nothing of {self.volume}")
        found = census(self.s3d.objects, self.pool)
        return {"df": df, "segments": found["segments"], "openings": found["openings"], "other": found["other"],
                "difference": found["segments"][1] - df["stored"]}


def texts(s):
    mib = lambda n: f"{n / MIB:,.1f}"
    return [f"{s['seconds']:.0f}", mib(s["client"]), mib(s["live"]), mib(s["stored"]), mib(s["garbage"]), mib(s["dead"]),
            mib(s["own"]), f"{s['objects']:,}", f"{s['own'] / s['stored']:.3f}" if s["stored"] else "-",
            f"{s['space_amp']:.2f}" if s["space_amp"] else "-",
            f"{s['kept_amp']:.2f}" if s["kept_amp"] else "-", f"{s['write_amp']:.2f}" if s["client"] else "-"]
