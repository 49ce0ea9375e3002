//! Bytes of a hostile client: the server neither panics nor hangs, and serves the next client.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::LazyLock;
use std::time::Duration;

use common::{Running, go, meta, request};
use nbd_compat::proto::{OPTION_MAGIC, cmd, opt};
use proptest::prelude::*;

static SERVER: LazyLock<Running> = LazyLock::new(Running::usual);

/// Sends `bytes`, ends, and drains what comes back; the server must close within the time limit.
fn assault(prefix: &[u8], bytes: &[u8]) {
    let mut stream = SERVER.connect().stream;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may close while we write: that is an answer too.
    let mut sender = stream.try_clone().unwrap();
    let message = [prefix, bytes].concat();
    let sending = std::thread::spawn(move || {
        let sent = sender.write_all(&message);
        let closed = sender.shutdown(Shutdown::Write);
        sent.is_ok() && closed.is_ok()
    });
    let mut sink = [0; 65536];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("the server hangs: {e}"),
        }
    }
    sending.join().unwrap();
    let mut next = SERVER.client(true);
    assert_eq!(next.read(SERVER_SIZE - 1, 1).unwrap().len(), 1);
}

const SERVER_SIZE: u64 = 4 << 20;

fn option(code: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &code.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

fn some_option() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        Just(go("disk", &[0, 1, 2, 3])),
        Just(meta("disk", &["base:allocation", "base:"])),
    ];
    (0u32..12, data, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(code, mut data, at, byte)| {
        if !data.is_empty() && byte % 2 == 0 {
            let at = at.index(data.len());
            data[at] = byte;
        }
        option(code, &data)
    })
}

fn some_request() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![0..SERVER_SIZE, any::<u64>(), Just(u64::MAX), Just(SERVER_SIZE)];
    let len = prop_oneof![0u32..9000, any::<u32>(), Just(u32::MAX)];
    let flags = prop_oneof![4 => Just(0u16), 1 => 0u16..32, 1 => any::<u16>()];
    let kind = prop_oneof![8 => 0u16..9, 1 => any::<u16>()];
    (flags, kind, any::<u64>(), offset, len).prop_map(|(flags, kind, cookie, offset, len)| {
        let mut bytes = request(flags, kind, cookie, offset, len);
        if kind == cmd::WRITE {
            bytes.resize(bytes.len() + len.min(9000) as usize, 0x5a);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_for_a_handshake(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        assault(&[], &bytes);
    }

    #[test]
    fn any_options(options in prop::collection::vec(some_option(), 0..8)) {
        assault(&3u32.to_be_bytes(), &options.concat());
    }

    #[test]
    fn any_requests(structured in any::<bool>(), requests in prop::collection::vec(some_request(), 0..12)) {
        let mut prefix = 3u32.to_be_bytes().to_vec();
        if structured {
            prefix.extend(option(opt::STRUCTURED_REPLY, &[]));
            prefix.extend(option(opt::SET_META_CONTEXT, &meta("", &["base:allocation"])));
        }
        prefix.extend(option(opt::GO, &go("", &[])));
        assault(&prefix, &requests.concat());
    }
}
