//! Options, one by one, byte by byte.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Running, device::Memory, go, meta};
use nbd_compat::ServerOptions;
use nbd_compat::proto::{self, export_flag as flag, info, opt, rep};

fn two_disks(options: ServerOptions) -> Running {
    let writable = Arc::new(Memory::new("disk", 4 << 20, false));
    Running::start(vec![writable, Arc::new(Memory::new("frozen", 8192, true))], options)
}

#[test]
fn list_names_every_export() {
    let server = two_disks(ServerOptions::default());
    let mut client = server.connect();
    client.greet(3);
    let replies = client.ask(opt::LIST, &[]);
    let expected =
        |name: &str| [&(name.len() as u32).to_be_bytes(), name.as_bytes(), b"the ", name.as_bytes()].concat();
    assert_eq!(replies, vec![(rep::SERVER, expected("disk")), (rep::SERVER, expected("frozen")), (rep::ACK, vec![])]);
    assert_eq!(client.ask(opt::LIST, &[1])[0].0, rep::ERR_INVALID);
    assert_eq!(client.ask(opt::ABORT, &[]), vec![(rep::ACK, vec![])]);
    assert!(client.is_closed());
}

#[test]
fn info_tells_what_was_asked_and_go_enters() {
    let server = two_disks(ServerOptions::default());
    let mut client = server.connect();
    client.greet(3);
    let replies = client.ask(opt::INFO, &go("", &[info::NAME, info::DESCRIPTION, 77]));
    let export = [&info::EXPORT.to_be_bytes()[..], &(4u64 << 20).to_be_bytes()].concat();
    assert_eq!(replies[0].1[..10], export);
    let flags = u16::from_be_bytes(replies[0].1[10..].try_into().unwrap());
    let all = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::CAN_MULTI_CONN
        | flag::SEND_CACHE
        | flag::SEND_FAST_ZERO;
    assert_eq!(flags, all);
    let sizes = [info::BLOCK_SIZE.to_be_bytes().to_vec(), [1u32, 4096, 32 << 20].map(u32::to_be_bytes).concat()];
    assert_eq!(replies[1].1, sizes.concat());
    assert_eq!(replies[2].1, [&info::NAME.to_be_bytes()[..], b"disk"].concat());
    assert_eq!(replies[3].1, [&info::DESCRIPTION.to_be_bytes()[..], b"the disk"].concat());
    assert_eq!(replies[4], (rep::ACK, vec![]));
    assert_eq!(client.enter("frozen", true) & (flag::READ_ONLY | flag::SEND_TRIM | flag::SEND_DF), 2 | 128);
    assert_eq!(client.read(0, 512).unwrap(), vec![0; 512]);
}

#[test]
fn exports_that_cannot_be_had_are_refused_with_words_and_the_session_goes_on() {
    let server = two_disks(ServerOptions::default());
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(opt::GO, &go("nothing", &[]))[0].0, rep::ERR_UNKNOWN);
    assert_eq!(client.ask(opt::INFO, &go("nothing", &[]))[0].0, rep::ERR_UNKNOWN);
    assert_eq!(client.ask(opt::GO, &go("busy", &[])), vec![(rep::ERR_POLICY, b"in use by another host".to_vec())]);
    assert_eq!(client.ask(opt::GO, &[0, 0, 0, 9, b'x', 0, 0])[0].0, rep::ERR_INVALID);
    assert_eq!(client.ask(opt::GO, &[])[0].0, rep::ERR_INVALID);
    assert_eq!(client.ask(4711, b"whatever")[0].0, rep::ERR_UNSUP);
    assert_eq!(client.ask(opt::STARTTLS, &[])[0].0, rep::ERR_POLICY);
    client.enter("disk", false);
    assert_eq!(client.write(0, b"x"), 0);
}

#[test]
fn export_name_enters_with_and_without_zeroes() {
    let server = two_disks(ServerOptions::default());
    for (flags, zeroes) in [(1u32, 124), (3, 0)] {
        let mut client = server.connect();
        client.greet(flags);
        client.option(opt::EXPORT_NAME, b"disk");
        assert_eq!(client.u64(), 4 << 20);
        assert_eq!(client.u16() & 1, 1);
        assert_eq!(client.take(zeroes), vec![0; zeroes]);
        assert_eq!(client.read(4096, 16).unwrap(), vec![0; 16]);
    }
    let mut client = server.connect();
    client.greet(3);
    client.option(opt::EXPORT_NAME, b"nothing");
    assert!(client.is_closed());
}

#[test]
fn contexts_are_listed_selected_and_bound_to_their_export() {
    let server = two_disks(ServerOptions::default());
    let mut client = server.connect();
    client.greet(3);
    let set = opt::SET_META_CONTEXT;
    assert_eq!(client.ask(set, &meta("disk", &["base:allocation"]))[0].0, rep::ERR_INVALID);
    client.ask(opt::STRUCTURED_REPLY, &[]);
    let context = |id: u32| (rep::META_CONTEXT, [&id.to_be_bytes()[..], b"base:allocation"].concat());
    let ack = (rep::ACK, vec![]);
    for queries in [&[][..], &["base:"], &["x:y", "base:allocation", "base:"]] {
        assert_eq!(client.ask(opt::LIST_META_CONTEXT, &meta("disk", queries)), vec![context(0), ack.clone()]);
    }
    assert_eq!(client.ask(opt::LIST_META_CONTEXT, &meta("disk", &["qemu:dirty"])), vec![ack.clone()]);
    assert_eq!(client.ask(set, &meta("disk", &[])), vec![ack.clone()]);
    assert_eq!(client.ask(set, &meta("nothing", &["base:allocation"]))[0].0, rep::ERR_UNKNOWN);
    assert_eq!(client.ask(set, &meta("disk", &["base:allocation"])), vec![context(1), ack]);
    // Selected for "disk", entered "frozen": not selected.
    client.ask(opt::GO, &go("frozen", &[]));
    client.structured = true;
    let cookie = client.request(0, proto::cmd::BLOCK_STATUS, 0, 4096, &[]);
    assert_eq!(client.status(cookie), proto::errno::EINVAL);
}

#[test]
fn long_options_are_skipped_and_giant_ones_end_the_session() {
    let server = Running::usual();
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(opt::LIST, &vec![0; 100_000])[0].0, rep::ERR_TOO_BIG);
    assert_eq!(client.ask(opt::LIST, &[]).len(), 2);
    let mut head = proto::OPTION_MAGIC.to_be_bytes().to_vec();
    head.extend_from_slice(&opt::GO.to_be_bytes());
    head.extend_from_slice(&u32::MAX.to_be_bytes());
    client.send(&head);
    assert!(client.is_closed());
}

#[test]
fn bad_magic_and_unknown_flags_end_the_session() {
    let server = Running::usual();
    let mut client = server.connect();
    client.greet(4);
    assert!(client.is_closed());
    let mut client = server.connect();
    client.greet(3);
    client.send(&[0x55; 16]);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_dawdles_is_closed_however_it_drips() {
    let limit = Duration::from_millis(400);
    let server = two_disks(ServerOptions { handshake_timeout: limit, ..ServerOptions::default() });
    let mut silent = server.connect();
    let mut dripping = server.connect();
    dripping.greet(3);
    let began = std::time::Instant::now();
    let head = proto::OPTION_MAGIC.to_be_bytes();
    for byte in head.iter().cycle() {
        std::thread::sleep(Duration::from_millis(50));
        if std::io::Write::write_all(&mut dripping.stream, &[*byte]).is_err() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the deadline is for the whole handshake");
    }
    silent.take(18);
    assert!(silent.is_closed());
    // Once in transmission there is no limit.
    let mut client = server.client(false);
    std::thread::sleep(limit * 2);
    assert_eq!(client.write(0, b"late"), 0);
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let server = two_disks(ServerOptions { max_connections: 2, ..ServerOptions::default() });
    let first = server.client(false);
    let _second = server.client(false);
    assert_eq!(server.server.connections(), 2);
    assert!(server.connect().is_closed());
    drop(first);
    for _ in 0..100 {
        if server.server.connections() == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    server.client(false);
}
