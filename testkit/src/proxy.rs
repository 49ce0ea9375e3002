//! A line to a TCP server that can be cut and go dead, as networks do. One listener per host, so that one host loses the
//! store while another has it.
//!
//! A thread accepts, and each connection has two that copy. What the line holds back when it goes dead is one read of at
//! most [`HELD`] bytes for each direction, and what the system's own buffers take.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Bytes that are read at a time.
const HELD: usize = 64 << 10;
/// Connections at a time; more are closed at once.
const MOST: usize = 1024;

/// What a line does with what is sent over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Carries it.
    Open,
    /// Connections are closed, and new ones too, as by a router that knows of no way.
    Cut,
    /// Connections stay, nothing passes in either direction and nobody is told.
    Dead,
    /// What clients send arrives; no answer comes back.
    Deaf,
}

struct State {
    line: Line,
    target: SocketAddr,
    /// Both ends of what is connected.
    connections: Vec<(u64, TcpStream, TcpStream)>,
    last: u64,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    over: AtomicBool,
}

/// A line in front of a server. Its connections end when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// A line to `target`, open, on any free port of the loopback.
    ///
    /// # Errors
    /// There is no free port, or no thread to be had.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = State { line: Line::Open, target, connections: Vec::new(), last: 0 };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), over: AtomicBool::new(false) });
        let accepting = shared.clone();
        thread::Builder::new().name("proxy".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Self { shared, address })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the server is from now on; connections to the old place stay as they are.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.state.lock().target = target;
    }

    /// What the line does from now on. What it held back arrives late once it is open again, whoever sent it may be dead.
    pub fn set(&self, line: Line) {
        let mut state = self.shared.state.lock();
        state.line = line;
        if line == Line::Cut {
            state.connections.iter().for_each(hang_up);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Ends all connections; what the line held back is lost.
    pub fn hang_up(&self) {
        self.shared.state.lock().connections.iter().for_each(hang_up);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.hang_up();
        // The thread that accepts learns of it by a connection; an error means that it is gone already.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}

/// An error means that the connection has ended already.
fn hang_up((_, client, server): &(u64, TcpStream, TcpStream)) {
    drop(client.shutdown(Shutdown::Both));
    drop(server.shutdown(Shutdown::Both));
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let connection = listener.accept();
        if shared.over.load(Ordering::SeqCst) {
            return;
        }
        match connection {
            // A server that is not there is a connection that ends.
            Ok((client, _)) => drop(connect(client, shared)),
            // Out of file descriptors, most likely: some may be free again soon.
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn connect(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (line, target) = {
        let state = shared.state.lock();
        (state.line, state.target)
    };
    if line == Line::Cut {
        return client.shutdown(Shutdown::Both);
    }
    let server = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let id = {
        let mut state = shared.state.lock();
        if state.line == Line::Cut || state.connections.len() >= MOST {
            return client.shutdown(Shutdown::Both);
        }
        state.last += 1;
        let (id, ends) = (state.last, (client.try_clone()?, server.try_clone()?));
        state.connections.push((id, ends.0, ends.1));
        id
    };
    let (from, to, there) = (client.try_clone()?, server.try_clone()?, shared.clone());
    thread::Builder::new().spawn(move || copy(from, to, &there, id, &[Line::Dead]))?;
    let back = shared.clone();
    thread::Builder::new().spawn(move || copy(server, client, &back, id, &[Line::Dead, Line::Deaf]))?;
    Ok(())
}

/// Carries bytes until one end closes. The connection is over for both then: HTTP has no use for half of one.
fn copy(mut from: TcpStream, mut to: TcpStream, shared: &Shared, id: u64, held_by: &[Line]) {
    let mut buffer = vec![0; HELD];
    while let Ok(n) = from.read(&mut buffer) {
        let mut state = shared.state.lock();
        while held_by.contains(&state.line) && !shared.over.load(Ordering::SeqCst) {
            shared.changed.wait_for(&mut state, Duration::from_millis(100));
        }
        drop(state);
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let mut state = shared.state.lock();
    if let Some(at) = state.connections.iter().position(|(n, ..)| *n == id) {
        hang_up(&state.connections.swap_remove(at));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A server that answers every byte with the next one.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|n| n == 1) {
                        stream.write_all(&[byte[0] + 1]).unwrap();
                    }
                });
            }
        });
        address
    }

    fn client(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream
    }

    fn ask(stream: &mut TcpStream, byte: u8) -> Option<u8> {
        stream.write_all(&[byte]).ok()?;
        answer(stream)
    }

    fn answer(stream: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok().map(|()| byte[0])
    }

    #[test]
    fn a_line_is_open_cut_dead_and_deaf() {
        let proxy = Proxy::start(server()).unwrap();
        let mut one = client(&proxy);
        assert_eq!(ask(&mut one, 1), Some(2));
        proxy.set(Line::Cut);
        assert_eq!(ask(&mut one, 2), None);
        assert_eq!(ask(&mut client(&proxy), 2), None);
        for line in [Line::Dead, Line::Deaf] {
            proxy.set(Line::Open);
            let mut two = client(&proxy);
            assert_eq!(ask(&mut two, 4), Some(5));
            proxy.set(line);
            assert_eq!(ask(&mut two, 6), None);
            proxy.set(Line::Open);
            assert_eq!(answer(&mut two), Some(7), "what was held back arrives late");
        }
        let mut three = client(&proxy);
        proxy.set(Line::Dead);
        assert_eq!(ask(&mut three, 8), None);
        proxy.hang_up();
        proxy.set(Line::Open);
        assert_eq!(ask(&mut three, 8), None, "it is over for good");
        assert_eq!(ask(&mut client(&proxy), 8), Some(9));
    }
}
