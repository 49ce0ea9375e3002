//! A process that writes with several threads is killed with SIGKILL, again and again; every time its ring must hold
//! all that it acknowledged, whole, and the next process goes on with it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;

const CHILD: &str = "ESKER_TEST_RING_CHILD";
const WRITERS: usize = 3;
const LAP: u64 = 1 << 16;

/// Acknowledgements that outlive the process: word `op % LAP` is set to `op` once the operation is complete.
struct Acks(super::super::memory::Memory);

impl Acks {
    fn open(dir: &Path) -> Self {
        let path = dir.join("acks");
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(LAP * 8).unwrap();
        Self(super::super::memory::Memory::map(&file, LAP as usize * 8).unwrap())
    }

    fn word(&self, op: u64) -> &AtomicU64 {
        self.0.word((op % LAP) as usize * 8)
    }
}

fn blocks_of(turn: u64) -> u32 {
    [1, 1, 1, 2, 8, 33, 256][(turn % 7) as usize]
}

fn child_writer(ring: &Ring, acks: &Acks, seed: u64) -> ! {
    for turn in seed.. {
        let parts = [
            PartHeader::Write { lba: turn, blocks: 2 },
            PartHeader::Trim { lba: 1, blocks: 1 },
            PartHeader::Write { lba: 9, blocks: 1 },
        ];
        let op = match turn % 5 {
            0 => OpHeader::Batch(&parts),
            1 => OpHeader::trim(turn, 5),
            _ => OpHeader::write(turn, blocks_of(turn)),
        };
        let Ok(mut slot) = ring.reserve(&op) else {
            std::thread::yield_now();
            continue;
        };
        let op = slot.op();
        fill(slot.body(), op);
        slot.complete();
        acks.word(op).store(op, Ordering::Release);
    }
    unreachable!("numbers do not run out")
}

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let ring = Ring::open(&dir.join("ring"), &options()).unwrap();
    let acks = Acks::open(&dir);
    std::fs::write(dir.join("ready"), b"").unwrap();
    std::thread::scope(|s| {
        for w in 0..WRITERS {
            let (ring, acks) = (&ring, &acks);
            s.spawn(move || child_writer(ring, acks, w as u64 * 3));
        }
        let mut out = Vec::new();
        loop {
            out.clear();
            let c = ring.collect(0, u64::MAX, 1 << 20, &mut out);
            if c.next_op > ring.first_op() {
                ring.free_through(c.next_op - 1);
            }
        }
    });
}

fn run_and_kill(dir: &Path, after: Duration) {
    drop(std::fs::remove_file(dir.join("ready")));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journal::tests::kill::child", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !dir.join("ready").exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "the child did not start");
        assert!(child.try_wait().unwrap().is_none(), "the child failed");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(after);
    assert!(child.try_wait().unwrap().is_none(), "the child failed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Checks the ring that a killed process left; answers its ends.
fn verify(dir: &Path, acks: &Acks) -> (u64, u64) {
    let ring = Ring::open(&dir.join("ring"), &options()).unwrap();
    let (first, next) = (ring.first_op(), ring.next_op());
    let hold = ring.hold(0);
    let records = all(&ring);
    assert!(records.iter().map(|r| r.op).eq(first..next));
    let mut voids = 0;
    for r in &records {
        let acknowledged = acks.word(r.op).load(Ordering::Acquire) == r.op;
        let mut data = Vec::new();
        match &r.kind {
            RecordKind::Write { body, .. } => data.extend_from_slice(hold.data(body)),
            RecordKind::Batch(parts) => {
                for part in parts {
                    if let Part::Write { body, .. } = part {
                        data.extend_from_slice(hold.data(body));
                    }
                }
                assert_eq!(data.len(), 3 * 4096);
            }
            RecordKind::Trim { .. } => {}
            RecordKind::Void => {
                voids += 1;
                assert!(!acknowledged, "operation {} was acknowledged and is gone", r.op);
            }
        }
        assert_eq!(data, filled(data.len(), r.op), "operation {}", r.op);
    }
    // Nothing acknowledged lies beyond the head.
    for i in 0..LAP {
        assert!(acks.word(i).load(Ordering::Acquire) < next);
    }
    assert!(voids <= WRITERS as u64 || next - first > 0);
    (first, next)
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = dir();
    let (_, ring) = new_ring(&dir);
    drop(ring);
    let acks = Acks::open(dir.path());
    let rounds: u64 = std::env::var("ESKER_TEST_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(25);
    let mut before = 100;
    for round in 0..rounds {
        run_and_kill(dir.path(), Duration::from_micros(round * 7919 % 30_000));
        let (_, next) = verify(dir.path(), &acks);
        assert!(next >= before);
        before = next;
    }
    assert!(before > 100 + rounds, "the children hardly wrote");
}
