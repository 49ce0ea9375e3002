//! Metadata contexts: `base:allocation` is the one there is.

use super::wire::Fields;
use super::{Handshake, Result};
use crate::proto::{BASE_ALLOCATION, BASE_ALLOCATION_ID, opt, rep};

impl Handshake<'_> {
    pub(super) fn meta_context(&mut self, code: u32, data: &[u8]) -> Result<()> {
        let setting = code == opt::SET_META_CONTEXT;
        if setting {
            // Also where the option fails: a selection is replaced by each SET.
            self.meta_export = None;
        }
        if !self.structured {
            return self.refuse(code, rep::ERR_INVALID, "structured replies come first");
        }
        let Some((name, queries)) = parse(data) else {
            return self.refuse(code, rep::ERR_INVALID, "malformed option");
        };
        if self.exports.describe(&name).is_none() {
            return self.refuse(code, rep::ERR_UNKNOWN, "no such export");
        }
        let matched = if setting {
            queries.iter().any(|query| query == BASE_ALLOCATION)
        } else {
            queries.is_empty() || queries.iter().any(|query| query == BASE_ALLOCATION || query == "base:")
        };
        if matched {
            let id = if setting { BASE_ALLOCATION_ID } else { 0 };
            self.reply(code, rep::META_CONTEXT, &[&id.to_be_bytes(), BASE_ALLOCATION.as_bytes()].concat())?;
        }
        if setting && matched {
            self.meta_export = Some(name);
        }
        self.reply(code, rep::ACK, &[])
    }
}

/// The export's name and the queries.
fn parse(data: &[u8]) -> Option<(String, Vec<String>)> {
    let mut fields = Fields::new(data);
    let name = fields.string()?.to_owned();
    let count = fields.u32()?;
    // No allocation by the count: the data, whose length is bounded, runs out first.
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.string()?.to_owned());
    }
    fields.is_empty().then_some((name, queries))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_count_beyond_the_data_is_refused() {
        let mut data = vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(parse(&data), None);
        data.truncate(4);
        data.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, b'b', b':']);
        assert_eq!(parse(&data), Some((String::new(), vec!["b:".to_owned()])));
    }
}
