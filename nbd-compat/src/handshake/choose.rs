//! Choosing an export: EXPORT_NAME, INFO and GO.

use std::sync::Arc;
use std::time::{Duration, Instant};

use esker_block::{BlockDevice, DeviceInfo};

use super::wire::Fields;
use super::{Handshake, HandshakeError, Result};
use crate::exports::ExportError;
use crate::proto::{MAX_STRING, export_flag, info, opt, rep};

/// What a chosen export hands to the session: the device and the name it was asked for under.
type Chosen = (Arc<dyn BlockDevice>, String);

/// How often a handshake that waits for an export looks whether the server is going down.
const STOP_POLL: Duration = Duration::from_millis(100);

impl Handshake<'_> {
    pub(super) fn export_name(&mut self, data: &[u8]) -> Result<Chosen> {
        let name = std::str::from_utf8(data).ok().filter(|name| name.len() <= MAX_STRING);
        let Some(name) = name.map(str::to_owned) else {
            return Err(HandshakeError::Protocol("an export name that is not one"));
        };
        // This option knows no error reply: to close the connection is the answer.
        let device = self.open(&name).map_err(|e| HandshakeError::Refused(name.clone(), e.to_string()))?;
        let mut answer = [0; 8 + 2 + 124];
        answer[..8].copy_from_slice(&device.info().size.to_be_bytes());
        answer[8..10].copy_from_slice(&export_flags(device.info(), self.structured).to_be_bytes());
        let len = if self.no_zeroes { 10 } else { answer.len() };
        self.stream.send_all(&answer[..len])?;
        Ok((device, name))
    }

    pub(super) fn go_or_info(&mut self, code: u32, data: &[u8]) -> Result<Option<Chosen>> {
        let Some((name, wanted)) = parse(data) else {
            self.refuse(code, rep::ERR_INVALID, "malformed option")?;
            return Ok(None);
        };
        if code == opt::INFO {
            match self.exports.describe(&name) {
                None => self.refuse(code, rep::ERR_UNKNOWN, "no such export")?,
                Some(device) => {
                    self.describe(code, &device, &wanted)?;
                    self.reply(code, rep::ACK, &[])?;
                }
            }
            return Ok(None);
        }
        match self.open(&name) {
            Err(error) => {
                tracing::info!(export = name, %error, "an export was refused");
                let kind = match error {
                    ExportError::Unknown | ExportError::Failed(_) => rep::ERR_UNKNOWN,
                    ExportError::Refused(_) => rep::ERR_POLICY,
                    ExportError::ShuttingDown => rep::ERR_SHUTDOWN,
                };
                self.refuse(code, kind, &error.to_string())?;
                Ok(None)
            }
            Ok(device) => {
                self.describe(code, device.info(), &wanted)?;
                self.reply(code, rep::ACK, &[])?;
                Ok(Some((device, name)))
            }
        }
    }

    /// Opens an export. The client's time stands still meanwhile: attaching a volume can take longer.
    fn open(&mut self, name: &str) -> std::result::Result<Arc<dyn BlockDevice>, ExportError> {
        let began = Instant::now();
        let opened = self.runtime.block_on(async {
            let mut opening = self.exports.open(name);
            loop {
                match tokio::time::timeout(STOP_POLL, &mut opening).await {
                    Ok(opened) => return opened,
                    Err(_) if (self.stopping)() => return Err(ExportError::ShuttingDown),
                    Err(_) => {}
                }
            }
        });
        self.deadline += began.elapsed();
        self.stream.socket().set_deadline(Some(self.deadline.saturating_duration_since(Instant::now())));
        opened
    }

    fn describe(&mut self, code: u32, device: &DeviceInfo, wanted: &[u16]) -> Result<()> {
        let mut export = [0; 12];
        export[..2].copy_from_slice(&info::EXPORT.to_be_bytes());
        export[2..10].copy_from_slice(&device.size.to_be_bytes());
        export[10..].copy_from_slice(&export_flags(device, self.structured).to_be_bytes());
        self.reply(code, rep::INFO, &export)?;
        // Unasked too: clients that do not know it ignore it.
        let (min, preferred, max) = block_sizes(device, self.options.max_request);
        let mut sizes = [0; 14];
        sizes[..2].copy_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        sizes[2..6].copy_from_slice(&min.to_be_bytes());
        sizes[6..10].copy_from_slice(&preferred.to_be_bytes());
        sizes[10..].copy_from_slice(&max.to_be_bytes());
        self.reply(code, rep::INFO, &sizes)?;
        if wanted.contains(&info::NAME) {
            self.text(code, info::NAME, &device.name)?;
        }
        if wanted.contains(&info::DESCRIPTION) {
            let entry = self.exports.list().into_iter().find(|entry| entry.name == device.name);
            if let Some(entry) = entry {
                self.text(code, info::DESCRIPTION, &entry.description)?;
            }
        }
        Ok(())
    }

    fn text(&mut self, code: u32, kind: u16, text: &str) -> Result<()> {
        self.reply(code, rep::INFO, &[&kind.to_be_bytes(), text.as_bytes()].concat())
    }

    /// Whether two names that clients may use mean one export.
    pub(super) fn same_export(&self, a: &str, b: &str) -> bool {
        let canonical = |name: &str| self.exports.describe(name).map(|device| device.name);
        a == b || canonical(a).is_some_and(|name| canonical(b).as_deref() == Some(name.as_str()))
    }
}

/// Name and wanted information of INFO and GO.
fn parse(data: &[u8]) -> Option<(String, Vec<u16>)> {
    let mut fields = Fields::new(data);
    let name = fields.string()?.to_owned();
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<Vec<_>>>()?;
    fields.is_empty().then_some((name, wanted))
}

/// The transmission flags of a device.
pub(crate) fn export_flags(device: &DeviceInfo, structured: bool) -> u16 {
    use export_flag as f;
    // One engine serves all connections, so that they see one coherent device.
    let mut flags = f::HAS_FLAGS | f::SEND_FLUSH | f::SEND_FUA | f::CAN_MULTI_CONN | f::SEND_CACHE;
    if device.read_only {
        flags |= f::READ_ONLY;
    } else {
        flags |= f::SEND_TRIM | f::SEND_WRITE_ZEROES | f::SEND_FAST_ZERO;
    }
    if structured {
        flags |= f::SEND_DF;
    }
    flags
}

/// Minimum, preferred and maximum block size: any byte is right, whole physical blocks avoid read-modify-write.
fn block_sizes(device: &DeviceInfo, max_request: u32) -> (u32, u32, u32) {
    let preferred = device.physical_block.clamp(512, 1 << 20).next_power_of_two();
    (1, preferred, max_request.max(preferred))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn go_data_is_checked_to_its_end() {
        let good = [0, 0, 0, 1, b'x', 0, 2, 0, 3, 0, 1];
        assert_eq!(parse(&good), Some(("x".to_owned(), vec![3, 1])));
        for end in 0..good.len() {
            assert_eq!(parse(&good[..end]), None, "cut at {end}");
        }
        assert_eq!(parse(&[good.as_slice(), &[0]].concat()), None);
    }
}
