//! Links between documents.

use std::path::Path;

use crate::source::root;

/// The links of the document at `path` that lead nowhere; addresses of the web are not followed.
pub fn broken(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(path)).expect("a document is UTF-8");
    let folder = Path::new(path).parent().expect("a file has a folder");
    let mut findings = Vec::new();
    for (line, target) in targets(&text) {
        if ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let to = if file.is_empty() { root().join(path) } else { root().join(folder).join(file) };
        let found = to.exists() && !file.starts_with('/');
        let is_document = to.extension().is_some_and(|e| e == "md");
        if !found || (is_document && !anchor.is_empty() && !has_anchor(&to, anchor)) {
            findings.push(format!("{path}:{line}: {target}"));
        }
    }
    findings
}

/// `[text](target)`, `![text](target)`, `src="target"` and `href="target"`, outside code; with their lines.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (n, line) in prose(text) {
        for (open, close) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            for (at, _) in line.match_indices(open) {
                let rest = &line[at + open.len()..];
                let in_code = line[..at].matches('`').count() % 2 == 1;
                if let (false, Some(end)) = (in_code, rest.find(close)) {
                    // A title may follow the target.
                    found.extend(rest[..end].split_whitespace().next().map(|target| (n, target)));
                }
            }
        }
    }
    found
}

/// The lines outside fenced code, numbered from 1.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((n + 1, line));
        }
    }
    lines
}

/// Whether a heading of `document` has this anchor, as web views of repositories make them.
fn has_anchor(document: &Path, anchor: &str) -> bool {
    let text = std::fs::read_to_string(document).unwrap_or_default();
    let headings = prose(&text).into_iter().filter(|(_, line)| line.starts_with('#'));
    headings.into_iter().any(|(_, line)| slug(line.trim_start_matches('#')) == anchor)
}

fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_are_found_and_code_is_not() {
    let text = "a [b](c.md#d) ![e](f.svg \"t\")\n```\n[x](y)\n```\n`[x](y)` [z](#q)";
    assert_eq!(targets(text), [(1, "c.md#d"), (1, "f.svg"), (5, "#q")]);
    assert_eq!(slug(" The write path, `in` short"), "the-write-path-in-short");
}
