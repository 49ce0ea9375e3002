//! Requests and replies.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Reply, Running, device::Memory, pattern, request};
use nbd_compat::ServerOptions;
use nbd_compat::proto::{chunk, cmd, cmd_flag, errno};

const SIZE: u64 = 4 << 20;

#[test]
fn what_was_written_is_read_at_any_alignment() {
    let server = Running::usual();
    for structured in [false, true] {
        let mut client = server.client(structured);
        // The long one is more than the receive buffer holds.
        for (offset, len) in
            [(0, 1), (511, 2), (4095, 4098), (1 << 20, 1), (1_000_001, 300_000), (SIZE - 7, 7), (5, 3 << 20)]
        {
            let data = pattern(offset, len);
            assert_eq!(client.write(offset, &data), 0);
            assert_eq!(client.read(offset, len as u32).unwrap(), data, "{offset}+{len}");
        }
        assert_eq!(client.write(77, &[]), 0);
        let cookie = client.request(0, cmd::READ, 77, 0, &[]);
        assert_eq!(client.read_reply(cookie, 77, 0).unwrap(), vec![]);
    }
}

#[test]
fn holes_are_told_not_sent() {
    let server = Running::usual();
    let mut client = server.client(true);
    let cookie = client.request(cmd_flag::DF, cmd::READ, 8192, 4096, &[]);
    let payload = [8192u64.to_be_bytes().to_vec(), 4096u32.to_be_bytes().to_vec()].concat();
    assert_eq!(client.reply(), Reply::Chunk { flags: 1, kind: chunk::OFFSET_HOLE, cookie, payload });
    assert_eq!(client.write(2 << 20, &[9]), 0);
    // More than is answered inline: runs of zeroes and data, unless the client wants one piece.
    let cookie = client.request(0, cmd::READ, 0, SIZE as u32, &[]);
    let whole = client.read_reply(cookie, 0, SIZE as u32).unwrap();
    assert_eq!(whole.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 9);
    let cookie = client.request(0, cmd::READ, 0, SIZE as u32, &[]);
    let kinds = (0..3).map(|_| match client.reply() {
        Reply::Chunk { kind, cookie: got, .. } if got == cookie => kind,
        other => panic!("{other:?}"),
    });
    assert_eq!(kinds.collect::<Vec<_>>(), [chunk::OFFSET_HOLE, chunk::OFFSET_DATA, chunk::OFFSET_HOLE]);
    let cookie = client.request(cmd_flag::DF, cmd::READ, 0, SIZE as u32, &[]);
    match client.reply() {
        Reply::Chunk { flags: 1, kind: chunk::OFFSET_DATA, cookie: got, payload } => {
            assert_eq!((got, payload.len()), (cookie, 8 + SIZE as usize));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn zeroes_trims_flushes_and_caches() {
    let server = Running::usual();
    let mut client = server.client(true);
    assert_eq!(client.write(0, &pattern(1, 10_000)), 0);
    for flags in [0, cmd_flag::NO_HOLE, cmd_flag::FAST_ZERO | cmd_flag::FUA] {
        let cookie = client.request(flags, cmd::WRITE_ZEROES, 100, 5000, &[]);
        assert_eq!(client.status(cookie), 0);
    }
    let expected = [&pattern(1, 10_000)[..100], &[0; 5000], &pattern(1, 10_000)[5100..]].concat();
    assert_eq!(client.read(0, 10_000).unwrap(), expected);
    for (kind, offset, len) in
        [(cmd::TRIM, 0, SIZE as u32), (cmd::FLUSH, 0, 0), (cmd::CACHE, 4096, 4096), (cmd::TRIM, 5, 0)]
    {
        let cookie = client.request(cmd_flag::FUA, kind, offset, len, &[]);
        assert_eq!(client.status(cookie), 0, "command {kind}");
    }
    assert_eq!(client.read(0, 10_000).unwrap(), vec![0; 10_000]);
}

#[test]
fn block_status_tells_holes() {
    let server = Running::usual();
    let mut client = server.client(true);
    assert_eq!(client.write(1 << 20, &[1]), 0);
    let mut ask = |flags, offset, len| {
        let cookie = client.request(flags, cmd::BLOCK_STATUS, offset, len, &[]);
        match client.reply() {
            Reply::Chunk { flags: 1, kind: chunk::BLOCK_STATUS, cookie: got, payload } if got == cookie => {
                payload.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    let mib = 1 << 20;
    assert_eq!(ask(0, 0, SIZE as u32), vec![1, mib, 3, mib, 0, 2 * mib, 3]);
    assert_eq!(ask(cmd_flag::REQ_ONE, 0, SIZE as u32), vec![1, mib, 3]);
    assert_eq!(ask(0, 100, 200), vec![1, 200, 3]);
    let cookie = client.request(0, cmd::BLOCK_STATUS, 0, 0, &[]);
    assert_eq!(client.status(cookie), errno::EINVAL);
}

#[test]
fn what_may_not_be_is_refused_and_the_connection_goes_on() {
    let server = Running::usual();
    for structured in [false, true] {
        let mut client = server.client(structured);
        let cases = [
            (0, cmd::READ, SIZE, 1, errno::EINVAL),
            (0, cmd::READ, u64::MAX, 2, errno::EINVAL),
            (0, cmd::READ, 0, u32::MAX, errno::EINVAL),
            (0, cmd::TRIM, SIZE - 1, 2, errno::EINVAL),
            (0, cmd::CACHE, SIZE, 1, errno::EINVAL),
            (0, cmd::WRITE_ZEROES, SIZE - 1, 2, errno::ENOSPC),
            (0, cmd::WRITE_ZEROES, u64::MAX, u32::MAX, errno::ENOSPC),
            (0, cmd::FLUSH, 1, 0, errno::EINVAL),
            (0, cmd::FLUSH, 0, 1, errno::EINVAL),
            (0, 8, 0, 0, errno::EINVAL),
            (0, 0xffff, 0, 0, errno::EINVAL),
            (1 << 5, cmd::READ, 0, 1, errno::EINVAL),
            (cmd_flag::DF, cmd::TRIM, 0, 1, errno::EINVAL),
            (cmd_flag::REQ_ONE, cmd::WRITE_ZEROES, 0, 1, errno::EINVAL),
        ];
        for (flags, kind, offset, len, error) in cases {
            let cookie = client.request(flags, kind, offset, len, &[]);
            assert_eq!(client.status(cookie), error, "{kind} {offset}+{len}");
        }
        // A refused write's data is not taken for requests.
        for (flags, offset, error) in
            [(0, SIZE - 1, errno::ENOSPC), (0, u64::MAX, errno::ENOSPC), (64, 0, errno::EINVAL)]
        {
            let data = [request(0, cmd::WRITE, 99, 0, 4), vec![1; 500_000]].concat();
            let cookie = client.request(flags, cmd::WRITE, offset, data.len() as u32, &data);
            assert_eq!(client.status(cookie), error);
        }
        assert_eq!(client.read(0, 4096).unwrap(), vec![0; 4096]);
    }
}

#[test]
fn payloads_have_a_limit() {
    let memory = || Arc::new(Memory::new("disk", SIZE, false));
    let server = Running::start(vec![memory()], ServerOptions { max_request: 65_536, ..ServerOptions::default() });
    let mut client = server.client(true);
    assert_eq!(client.read(0, 65_537), Err(errno::EOVERFLOW));
    assert_eq!(client.write(0, &vec![1; 65_537]), errno::EINVAL);
    assert_eq!(client.write(0, &vec![1; 65_536]), 0);
    assert_eq!(server.client(false).read(0, 65_537), Err(errno::EINVAL));
    client.request(0, cmd::WRITE, 0, u32::MAX, &[]);
    assert!(client.is_closed());
}

#[test]
fn a_read_only_export_refuses_to_change() {
    let server = Running::start(vec![Arc::new(Memory::new("disk", SIZE, true))], ServerOptions::default());
    let mut client = server.client(true);
    assert_eq!(client.write(0, b"data"), errno::EPERM);
    for kind in [cmd::TRIM, cmd::WRITE_ZEROES] {
        let cookie = client.request(0, kind, 0, 4096, &[]);
        assert_eq!(client.status(cookie), errno::EPERM);
    }
    assert_eq!(client.read(0, 4).unwrap(), vec![0; 4]);
}

#[test]
fn a_write_cut_off_is_not_applied() {
    let server = Running::usual();
    for len in [8192, 1 << 20] {
        let mut client = server.client(false);
        client.request(0, cmd::WRITE, 0, len, &vec![7; len as usize - 1]);
        drop(client);
    }
    while server.server.connections() > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.client(false).read(0, 1 << 20).unwrap(), vec![0; 1 << 20]);
}

#[test]
fn many_requests_in_one_packet_get_all_their_replies() {
    let server = Running::usual();
    let mut client = server.client(false);
    let mut bytes = Vec::new();
    for i in 0..200u64 {
        bytes.extend(request(0, cmd::WRITE, i, i * 4096, 4096));
        bytes.extend(pattern(i, 4096));
        bytes.extend(request(0, cmd::READ, 1000 + i, i * 4096, 4096));
    }
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &bytes).unwrap());
    for i in 0..200 {
        assert_eq!(client.status(i), 0);
        assert_eq!(client.read_reply(1000 + i, 0, 4096).unwrap(), pattern(i, 4096));
    }
    sending.join().unwrap();
    client.request(0, cmd::DISC, 0, 0, &[]);
    assert!(client.is_closed());
}

#[test]
fn garbage_ends_the_connection() {
    let server = Running::usual();
    let mut client = server.client(true);
    client.send(&[0xa5; 28]);
    assert!(client.is_closed());
}
