//! One store, two hosts, and the lines between them; each with its processes and small disks.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use esker_testkit::served::{Host, Site, VOLUME, program};
use esker_testkit::{Line, Proxy};
use rustix::fs::statvfs;

/// A pool record whose password is cheap to check: 64 MiB of memory for each start would be all that this measures.
const POOL: &[u8] = include_bytes!("../../../src/pool/golden/pool-record.bin");
const PASSWORD: &str = "golden";

/// Of the volume: it is compared as a whole again and again.
const SIZE: &str = "4M";

/// What s3d does on good days, by the number of the weather.
const WEATHER: [&[&str]; 3] = [
    &[],
    &["--delay", "uniform:1ms,20ms"],
    &[
        "--delay",
        "lognormal:3ms,2",
        "--fault",
        r#"{"probability":0.02,"action":{"reply":{"status":503,"code":"SlowDown"}}}"#,
        "--fault",
        r#"{"kinds":["create"],"probability":0.02,"action":"apply_then_drop"}"#,
        "--fault",
        r#"{"kinds":["create"],"probability":0.02,"action":{"apply_then_reply":{"status":500,"code":"InternalError"}}}"#,
        "--fault",
        r#"{"kinds":["create"],"probability":0.01,"action":{"reply":{"status":409,"code":"ConditionalRequestConflict"}}}"#,
        "--fault",
        r#"{"kinds":["get"],"probability":0.01,"action":{"cut_body":{"keep":100}}}"#,
    ],
];

/// Where the binaries are.
pub struct Programs {
    pub esker: PathBuf,
    pub s3d: PathBuf,
}

impl Programs {
    /// `ESKER` and `S3D`, or those built beside this program.
    pub fn find() -> Self {
        let built = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let find = |name: &str, file: &str| std::env::var_os(name).map_or_else(|| built.join(file), PathBuf::from);
        Self { esker: find("ESKER", "esker"), s3d: find("S3D", "s3d") }
    }
}

/// A disk of its own, whose size can be changed, or a plain directory.
struct Disk {
    path: PathBuf,
    mounted: bool,
}

/// The size of a disk that is not full.
const ROOMY: u64 = 1 << 30;

impl Disk {
    fn new(path: PathBuf, mounted: bool) -> Self {
        fs::create_dir_all(&path).unwrap();
        let disk = Self { path, mounted };
        if mounted {
            disk.mount(&format!("size={ROOMY}"));
        }
        disk
    }

    #[track_caller]
    fn mount(&self, options: &str) {
        let ran =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "torture"]).arg(&self.path).output().unwrap();
        assert!(ran.status.success(), "mount -o {options}: {ran:?}");
    }

    /// No room is left but for a few pages.
    fn fill(&self) {
        // What is in use may grow between the look and the change.
        for _ in 0..1000 {
            let stat = statvfs(&self.path).unwrap();
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            let options = format!("remount,size={}", used + (16 << 10));
            let ran = Command::new("mount").args(["-o", &options]).arg(&self.path).output().unwrap();
            if ran.status.success() {
                return;
            }
        }
        panic!("{} cannot be filled", self.path.display());
    }

    fn free(&self) {
        let options = format!("remount,size={ROOMY}");
        let ran = Command::new("mount").args(["-o", &options]).arg(&self.path).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: processes of this round may be ending yet. What fails here is gone with the namespace.
            drop(Command::new("umount").arg("-l").arg(&self.path).output());
        }
    }
}

/// The world of one round.
pub struct World {
    programs: Programs,
    dir: PathBuf,
    store: Option<Child>,
    store_args: Vec<String>,
    disk: Disk,
    pub lines: Vec<Proxy>,
    pub hosts: Vec<Host>,
    journals: Vec<Disk>,
}

/// The store as one host reaches it.
pub struct Via<'a> {
    world: &'a World,
    line: &'a Proxy,
}

impl World {
    /// Two hosts and a store with a pool and a volume, below `dir`. `disks`: on small disks that can be full.
    pub fn new(dir: &Path, programs: Programs, weather: usize, seed: u64, disks: bool, faults: &[&str]) -> Self {
        let disk = Disk::new(dir.join("store"), disks);
        let pool = disk.path.join("esker/pool/pool");
        fs::create_dir_all(&pool).unwrap();
        fs::write(pool.join("fffffffffffffff6"), POOL).unwrap();
        let journals: Vec<_> = ["a", "b"].map(|n| Disk::new(dir.join(format!("journal-{n}")), disks)).into();
        let hosts = ["a", "b"].iter().zip(&journals).map(|(n, j)| Host::with_journal(dir, n, &j.path)).collect();
        let seed = seed.to_string();
        let mut store_args: Vec<String> = ["--seed", &seed].map(str::to_owned).into();
        store_args.extend(WEATHER[weather].iter().map(|s| (*s).to_owned()));
        store_args.extend(faults.iter().flat_map(|f| ["--fault".to_owned(), (*f).to_owned()]));
        let dir = dir.to_owned();
        let mut world = Self { programs, dir, store: None, store_args, disk, lines: Vec::new(), hosts, journals };
        let address = world.start_store();
        world.lines = (0..2).map(|_| Proxy::start(address).unwrap()).collect();
        let via = world.via(0);
        let created = via.command(&["volume", "create", &via.url(), VOLUME, "--size", SIZE]).output().unwrap();
        assert!(created.status.success(), "{created:?}");
        world
    }

    /// The store as this host reaches it.
    pub fn via(&self, host: usize) -> Via<'_> {
        Via { world: self, line: &self.lines[host] }
    }

    /// Starts the store: all lines lead to it.
    pub fn start_store(&mut self) -> SocketAddr {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("s3d.err")).unwrap();
        let mut command = Command::new(&self.programs.s3d);
        command.arg("--dir").arg(&self.disk.path).args(&self.store_args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        self.store = Some(child);
        let (told, line) = channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(out).lines().map_while(Result::ok);
            let endpoint = lines.find_map(|l| l.strip_prefix("export AWS_ENDPOINT_URL=http://").map(str::to_owned));
            told.send(endpoint).unwrap_or_default(); // nobody waits any more: the round has failed
            lines.for_each(drop);
        });
        let endpoint = line.recv_timeout(Duration::from_secs(60)).unwrap();
        let address = endpoint.expect("s3d gets ready").parse().unwrap();
        self.lines.iter().for_each(|l| l.set_target(address));
        address
    }

    /// kill -9 of the store.
    pub fn kill_store(&mut self) {
        if let Some(mut store) = self.store.take() {
            store.kill().unwrap();
            store.wait().unwrap();
        }
    }

    /// The store's disk is full, or no longer.
    pub fn fill_store(&self, full: bool) {
        if full { self.disk.fill() } else { self.disk.free() }
    }

    /// The disk of a host's journals is full, or no longer.
    pub fn fill_journal(&self, host: usize, full: bool) {
        if full { self.journals[host].fill() } else { self.journals[host].free() }
    }

    /// The line of a host; back from what it was, what it held back arrives late or not at all.
    pub fn heal(&self, host: usize, late: bool) {
        if !late {
            self.lines[host].hang_up();
        }
        self.lines[host].set(Line::Open);
    }

    /// Removes journals that were put aside: they would fill the disk.
    pub fn forget_lost(&self, host: usize) {
        self.hosts[host].journals("lost").iter().for_each(|p| fs::remove_file(p).unwrap());
    }

    /// The newest object of the volume's log.
    pub fn newest_segment(&self) -> PathBuf {
        let newest = |dir: &Path, first: bool| {
            let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
            all.sort();
            if first { all.remove(0) } else { all.pop().unwrap() }
        };
        // Epochs count down in their keys.
        newest(&newest(&self.disk.path.join("esker/pool/log/00000001"), true), false)
    }

    /// A line in the round's own log.
    pub fn note(&self, text: &str) {
        let mut log = OpenOptions::new().create(true).append(true).open(self.dir.join("round.log")).unwrap();
        writeln!(log, "{text}").unwrap();
    }

    /// Copies what is left to `to`: logs, state, objects, journals.
    pub fn keep(&self, to: &Path) {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let ran = Command::new("cp").args(["-a", "--sparse=always"]).arg(&self.dir).arg(to).output();
        if !ran.as_ref().is_ok_and(|r| r.status.success()) {
            eprintln!("not everything could be kept in {}: {ran:?}", to.display());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_store();
    }
}

impl Site for Via<'_> {
    fn url(&self) -> String {
        "s3://esker/pool".into()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program(&self.world.programs.esker, args);
        command.env("ESKER_PASSWORD", PASSWORD).arg("--allow-http").envs([
            ("AWS_ENDPOINT_URL", format!("http://{}", self.line.address())),
            ("AWS_ACCESS_KEY_ID", "s3d-access-key".into()),
            ("AWS_SECRET_ACCESS_KEY", "s3d-secret-key".into()),
            ("AWS_REGION", "us-east-1".into()),
        ]);
        command
    }
}

/// Whether disks can be mounted here.
pub fn can_mount(dir: &Path) -> bool {
    let probe = dir.join("probe");
    fs::create_dir_all(&probe).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "torture"]).arg(&probe).output();
    let mounted = mount.is_ok_and(|r| r.status.success());
    if mounted {
        assert!(File::create(probe.join("file")).is_ok());
        drop(Command::new("umount").arg(&probe).output());
    }
    mounted
}
