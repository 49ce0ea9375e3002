//! `esker doctor`: can this host serve block devices, and if not, what is missing?

mod checks;
mod facts;
mod features;

use clap::Args;
use serde_json::json;

use super::failure::{Failure, Outcome};
use super::output::{self, print_json};
use checks::{Check, Verdict};
use facts::Facts;

/// Check that this host can serve block devices, and say what is missing
///
/// Looks at the kernel's ublk and what it can do, io_uring, privileges, the kernel's NBD client, and the place of the
/// journal. Changes nothing and needs no store. The exit code is 0 where `esker attach` can make a ublk device, and 1
/// where it cannot.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker doctor\n  \
    esker doctor --json | jq .verdict")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: DoctorArgs) -> Outcome {
    // The kernel's answer is waited for.
    let facts = tokio::task::spawn_blocking(Facts::gather).await.map_err(|e| Failure::plain("doctor", e))?;
    let checks = checks::all(&facts);
    let verdict = checks::verdict(&facts, &checks);
    if args.json {
        print_json(&as_json(&facts, &checks, &verdict))?;
    } else {
        output::bytes(as_text(&checks).as_bytes())?;
    }
    match (verdict.ready, args.json) {
        (true, true) => Ok(()),
        (true, false) => output::line(verdict.text),
        (false, _) => Err(Failure::plain("ublk", verdict.text)),
    }
}

fn as_json(facts: &Facts, checks: &[Check], verdict: &Verdict) -> serde_json::Value {
    let features = facts.features.as_ref();
    json!({
        "ready": verdict.ready,
        "verdict": verdict.text,
        "kernel": facts.ublk.release.text,
        "features": features.and_then(|f| f.as_ref().ok()).map(|f| json!({
            "mask": format!("{:#x}", f.0),
            "names": f.names(),
        })),
        "checks": checks,
    })
}

/// A line for each check, and what helps below it.
fn as_text(checks: &[Check]) -> String {
    let mut out = String::new();
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or_default();
    for check in checks {
        out.push_str(&format!("{:<width$}  {:<8}{}\n", check.name, check.state.word(), check.says));
        if let Some(help) = &check.help {
            out.push_str(&format!("{:<width$}  {:<8}{help}\n", "", ""));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::checks::State;
    use super::*;

    #[test]
    fn help_stands_below_what_it_is_for() {
        let check = |name, help: Option<&str>| Check {
            name,
            state: State::Lacking,
            says: "no".into(),
            help: help.map(str::to_owned),
        };
        let text = as_text(&[check("a", Some("do it")), check("long", None)]);
        assert_eq!(text, "a     missing no\n              do it\nlong  missing no\n");
    }
}
