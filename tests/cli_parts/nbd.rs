//! The smallest NBD client that can open, read, write and flush (proto.md of NetworkBlockDevice/nbd).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const OPTION: u64 = 0x4948_4156_454F_5054;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;

/// A client in transmission.
pub struct Client {
    stream: UnixStream,
    pub size: u64,
    pub read_only: bool,
}

impl Client {
    pub fn connect(socket: &Path, name: &str) -> Self {
        Self::try_connect(socket, name).expect("the export opens")
    }

    /// `None` where the server refuses the export.
    pub fn try_connect(socket: &Path, name: &str) -> Option<Self> {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..8], b"NBDMAGIC");
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        let mut option = OPTION.to_be_bytes().to_vec();
        option.extend(OPT_GO.to_be_bytes());
        option.extend((name.len() as u32 + 6).to_be_bytes());
        option.extend((name.len() as u32).to_be_bytes());
        option.extend(name.as_bytes());
        option.extend(0u16.to_be_bytes());
        stream.write_all(&option).unwrap();
        let (mut size, mut flags) = (0, 0);
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head).unwrap();
            let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let mut data = vec![0; u32::from_be_bytes(head[16..20].try_into().unwrap()) as usize];
            stream.read_exact(&mut data).unwrap();
            match kind {
                REP_ACK => return Some(Self { stream, size, read_only: flags & 2 != 0 }),
                REP_INFO if data[..2] == [0, 0] => {
                    size = u64::from_be_bytes(data[2..10].try_into().unwrap());
                    flags = u16::from_be_bytes(data[10..12].try_into().unwrap());
                }
                REP_INFO => {}
                _ => return None,
            }
        }
    }

    fn request(&mut self, kind: u16, offset: u64, len: u32, data: &[u8]) -> Result<(), u32> {
        let mut request = REQUEST.to_be_bytes().to_vec();
        request.extend(0u16.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(42u64.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(len.to_be_bytes());
        request.extend(data);
        self.stream.write_all(&request).unwrap();
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], REPLY.to_be_bytes());
        match u32::from_be_bytes(reply[4..8].try_into().unwrap()) {
            0 => Ok(()),
            errno => Err(errno),
        }
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        self.request(0, offset, len as u32, &[]).unwrap();
        let mut data = vec![0; len];
        self.stream.read_exact(&mut data).unwrap();
        data
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.try_write(offset, data).unwrap();
    }

    /// The errno where it is refused.
    pub fn try_write(&mut self, offset: u64, data: &[u8]) -> Result<(), u32> {
        self.request(1, offset, data.len() as u32, data)
    }

    pub fn flush(&mut self) {
        self.request(3, 0, 0, &[]).unwrap();
    }
}
