//! Requests that wait for the device: order, bounds, shutdown.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Client, Running, gated::Gated, pattern};
use nbd_compat::ServerOptions;
use nbd_compat::proto::{cmd, cmd_flag, errno};

fn start(gated: &Arc<Gated>, options: ServerOptions) -> Running {
    Running::start(vec![gated.clone()], options)
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn silent(client: &mut Client) -> bool {
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let got = std::io::Read::read(&mut client.stream, &mut [0; 1]);
    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    got.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}

#[test]
fn replies_come_in_the_order_the_device_is_done() {
    let gated = Gated::new(1 << 20);
    let server = start(&gated, ServerOptions::default());
    let mut client = server.client(true);
    let write = client.request(cmd_flag::FUA, cmd::WRITE, 0, 4096, &pattern(3, 4096));
    let read = client.request(0, cmd::READ, 8192, 512, &[]);
    let flush = client.request(0, cmd::FLUSH, 0, 0, &[]);
    assert!(silent(&mut client));
    gated.flushes.add_permits(1);
    assert_eq!(client.status(flush), 0);
    gated.reads.add_permits(2);
    assert_eq!(client.read_reply(read, 8192, 512).unwrap(), vec![0; 512]);
    assert!(silent(&mut client));
    gated.writes.add_permits(1);
    assert_eq!(client.status(write), 0);
    assert_eq!(client.read(0, 4096).unwrap(), pattern(3, 4096));
    assert_eq!(gated.fua.load(Ordering::SeqCst), 1);
}

#[test]
fn reads_go_on_while_writes_are_parked() {
    let gated = Gated::new(1 << 20);
    let server = start(&gated, ServerOptions { max_in_flight: 8, ..ServerOptions::default() });
    let mut client = server.client(false);
    let writes: Vec<_> = (0..6).map(|i| client.request(0, cmd::WRITE, i * 4096, 4096, &[1; 4096])).collect();
    until("six writes", || gated.asked.load(Ordering::SeqCst) == 6);
    gated.reads.add_permits(1);
    assert!(client.read(0, 512).is_ok());
    // The seventh write waits outside, and with it what comes behind it.
    let seventh = client.request(0, cmd::WRITE, 0, 4096, &[2; 4096]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(gated.asked.load(Ordering::SeqCst), 6);
    gated.writes.add_permits(7);
    let mut cookies: Vec<_> = (0..7)
        .map(|_| match client.reply() {
            common::Reply::Simple { cookie, error: 0 } => cookie,
            other => panic!("{other:?}"),
        })
        .collect();
    cookies.sort_unstable();
    assert_eq!(cookies, writes.into_iter().chain([seventh]).collect::<Vec<_>>());
}

#[test]
fn parked_bytes_are_bounded() {
    let gated = Gated::new(64 << 20);
    let options = ServerOptions { max_parked: 4 << 20, ..ServerOptions::default() };
    let server = start(&gated, options);
    let mut client = server.client(false);
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for i in 0..16 {
            let head = common::request(0, cmd::WRITE, i, i << 20, 1 << 20);
            std::io::Write::write_all(&mut sender, &[head, vec![5; 1 << 20]].concat()).unwrap();
        }
    });
    until("writes", || gated.asked.load(Ordering::SeqCst) == 3);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(gated.asked.load(Ordering::SeqCst), 3, "three quarters of 4 MiB");
    gated.writes.add_permits(16);
    for _ in 0..16 {
        assert!(matches!(client.reply(), common::Reply::Simple { error: 0, .. }));
    }
    sending.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_holds_up_only_itself() {
    let gated = Gated::new(64 << 20);
    let server = start(&gated, ServerOptions::default());
    let mut lazy = server.client(true);
    let cookies: Vec<_> = (0..16).map(|i| lazy.request(cmd_flag::DF, cmd::READ, i << 20, 2 << 20, &[])).collect();
    let mut other = server.client(false);
    gated.writes.add_permits(1);
    let all = pattern(1, 32 << 20);
    assert_eq!(other.write(0, &all), 0);
    // More than the sockets hold, by two workers that must not wait for the lazy client.
    gated.reads.add_permits(cookies.len() + 1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(other.read(5, 4096).unwrap(), all[5..4096 + 5]);
    let mut seen = std::collections::HashSet::new();
    for _ in &cookies {
        match lazy.reply() {
            common::Reply::Chunk { flags: 1, cookie, payload, .. } => {
                let offset = u64::from_be_bytes(*payload.first_chunk().unwrap()) as usize;
                assert_eq!(payload[8..], all[offset..][..payload.len() - 8]);
                assert!(seen.insert(cookie));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn shutdown_finishes_what_is_in_flight_and_answers_it() {
    let gated = Gated::new(1 << 20);
    let mut server = start(&gated, ServerOptions::default());
    let mut client = server.client(false);
    let write = client.request(0, cmd::WRITE, 0, 4096, &[1; 4096]);
    until("the write", || gated.asked.load(Ordering::SeqCst) == 1);
    server.begin_shutdown();
    std::thread::sleep(Duration::from_millis(100));
    gated.writes.add_permits(1);
    assert_eq!(client.status(write), 0);
    assert!(client.is_closed());
    server.wait_ended(Duration::from_secs(5));
    assert!(std::os::unix::net::UnixStream::connect(&server.path).is_err());
}

#[test]
fn shutdown_gives_up_what_never_ends() {
    let gated = Gated::new(1 << 20);
    let options = ServerOptions { drain_timeout: Duration::from_millis(200), ..ServerOptions::default() };
    let mut server = start(&gated, options);
    let mut client = server.client(false);
    client.request(0, cmd::WRITE, 0, 4096, &[1; 4096]);
    let _idle = server.client(true);
    let _shaking = server.connect();
    until("the write", || gated.asked.load(Ordering::SeqCst) == 1);
    server.begin_shutdown();
    server.wait_ended(Duration::from_secs(5));
    assert_eq!(server.server.connections(), 0);
}

#[test]
fn a_client_that_vanishes_gives_its_place_back() {
    let gated = Gated::new(1 << 20);
    let options = ServerOptions { drain_timeout: Duration::from_millis(200), ..ServerOptions::default() };
    let server = start(&gated, options);
    let mut client = server.client(false);
    client.request(0, cmd::READ, 0, 4096, &[]);
    client.request(0, cmd::WRITE, 0, 4096, &[1; 4096]);
    until("the write", || gated.asked.load(Ordering::SeqCst) == 1);
    drop(client);
    until("the end of the connection", || server.server.connections() == 0);
    assert_eq!(Arc::strong_count(&gated), 2, "the connection let go of the device");
}

#[test]
fn disconnect_waits_for_what_is_in_flight() {
    let gated = Gated::new(1 << 20);
    let server = start(&gated, ServerOptions::default());
    let mut client = server.client(false);
    let write = client.request(0, cmd::WRITE, 0, 4096, &[1; 4096]);
    client.request(0, cmd::DISC, 0, 0, &[]);
    assert!(silent(&mut client));
    gated.writes.add_permits(1);
    assert_eq!(client.status(write), 0);
    assert!(client.is_closed());
}

#[test]
fn a_panic_of_the_device_is_an_error_of_one_request() {
    let gated = Gated::new(1 << 20);
    let server = start(&gated, ServerOptions::default());
    let mut client = server.client(true);
    let cookie = client.request(0, cmd::CACHE, 0, 4096, &[]);
    assert_eq!(client.status(cookie), errno::EIO);
    gated.reads.add_permits(1);
    assert!(client.read(0, 512).is_ok());
}
