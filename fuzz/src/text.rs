//! What people type: URLs of stores, sizes, names of volumes and devices.

use esker::cli::{parse_size, show_size};
use esker::host::device_number_of;
use esker::pool::check_name;
use esker::store::parse_url;

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind % 4 {
        0 => url(text),
        1 => size(text),
        2 => {
            if check_name(text).is_ok() {
                assert!(text.len() <= 64 && !text.contains('/') && !text.starts_with('.'));
            }
        }
        _ => {
            if let Some(n) = device_number_of(text) {
                assert!(text.starts_with("ublkb") && text.contains(&n.to_string()));
            }
        }
    }
}

fn url(text: &str) {
    match parse_url(text) {
        // What is shown names the same place again. (A directory's `.` and `..` are taken out on the way.)
        Ok(shown) if shown.contains("/.") => assert!(parse_url(&shown).is_ok(), "{text:?}"),
        Ok(shown) => assert_eq!(parse_url(&shown).ok().as_deref(), Some(&*shown), "{text:?}"),
        Err(e) => {
            let message = e.to_string();
            let secret = text.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(user, _)| user);
            let secret = secret.and_then(|user| user.split_once(':')).map(|(_, password)| password);
            // Elsewhere in the text the same letters are no secret.
            let once = |s: &str| text.to_ascii_lowercase().matches(&s.to_ascii_lowercase()).count() == 1;
            let plain = |s: &str| s.len() > 8 && s.bytes().all(|b| b.is_ascii_alphanumeric());
            if let Some(secret) = secret.filter(|s| plain(s) && once(s)) {
                assert!(!message.contains(secret), "{message:?}");
            }
        }
    }
}

fn size(text: &str) {
    if let Ok(bytes) = parse_size(text) {
        let shown = show_size(bytes);
        // Whole in some unit: what is shown is that size again.
        let compact = shown.replace(' ', "");
        if !compact.contains('.') {
            assert_eq!(parse_size(&compact), Ok(bytes), "{text:?} is shown as {shown:?}");
        }
    }
}
