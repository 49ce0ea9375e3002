//! The kernel's release: its version and, by its flavour, where its modules come from.

/// A kernel release such as `6.12.95+deb12-cloud-amd64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// As `uname -r` says it.
    pub text: String,
    /// Major and minor; `None` where the text does not begin with two numbers.
    pub version: Option<(u32, u32)>,
}

impl Release {
    /// The version of ublk's first kernel.
    pub const UBLK: (u32, u32) = (6, 0);
    /// The first kernel whose ublk says what it can do, which esker asks before it does anything else.
    pub const NEEDED: (u32, u32) = (6, 5);

    /// Of the running kernel.
    pub fn running() -> Self {
        Self::parse(&rustix::system::uname().release().to_string_lossy())
    }

    /// Of `uname -r`'s text.
    pub fn parse(text: &str) -> Self {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|n| n.parse().ok());
        let version = number().zip(number());
        Self { text: text.to_owned(), version }
    }

    /// Whether it is certainly older than `version`: one that cannot be read is not.
    pub fn is_before(&self, version: (u32, u32)) -> bool {
        self.version.is_some_and(|v| v < version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_all_flavours() {
        let version = |text| Release::parse(text).version;
        assert_eq!(version("6.12.95+deb12-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("7.2.12"), Some((7, 2)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert_eq!(version("5.15.0-1-generic"), Some((5, 15)));
        assert_eq!(version("mystery"), None);
        assert_eq!(version("6"), None);
        assert!(Release::parse("6.4.9").is_before(Release::NEEDED));
        assert!(!Release::parse("6.10.1").is_before(Release::NEEDED));
        assert!(!Release::parse("mystery").is_before(Release::NEEDED));
        assert!(Release::running().version.is_some());
    }
}
