//! Runs models: each holds as the sources are, and fails once one place in them is weakened. One line for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::weak;

/// One model.
#[derive(Clone, Copy)]
pub struct Model {
    pub name: &'static str,
    /// The places that it must miss.
    pub weak: &'static [&'static str],
    /// Explores schedules; `longer` times as many as usual. Panics at the first bad one.
    pub explore: fn(longer: usize),
}

static SCHEDULES: AtomicUsize = AtomicUsize::new(0);
/// What the first panic of an exploration said.
static SAID: Mutex<Option<String>> = Mutex::new(None);

/// Begins every assertion of a model, and the explorers' word for threads that all wait.
const OWN: [&str; 2] = ["broken: ", "deadlock"];

/// One schedule begins.
pub fn schedule() {
    SCHEDULES.fetch_add(1, Ordering::Relaxed);
}

/// What a model promises. Any other panic under a weakness is a fault of the model and no find.
#[track_caller]
pub fn holds(promise: bool, otherwise: impl FnOnce() -> String) {
    assert!(promise, "broken: {}", otherwise());
}

/// Runs the models whose name holds one of the arguments, or all. `ESKER_MODELS=N`: N times as many schedules.
pub fn run(models: &[Model]) -> ExitCode {
    let longer: usize = std::env::var("ESKER_MODELS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        SAID.lock().get_or_insert_with(|| info.payload_as_str().unwrap_or_default().to_string());
        print(info);
    }));
    let mut bad = false;
    for model in models.iter().filter(|m| asked.is_empty() || asked.iter().any(|a| m.name.contains(a.as_str()))) {
        let line = line(model, longer);
        bad |= line.contains("FAILED");
        println!("{line}");
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn line(model: &Model, longer: usize) -> String {
    let start = Instant::now();
    let (schedules, said) = explore(model, "", longer);
    let mut line = match said {
        None => format!("{}: holds over {schedules} schedules ({:.1} s)", model.name, start.elapsed().as_secs_f64()),
        Some(said) => return format!("{}: FAILED at schedule {schedules}: {said}", model.name),
    };
    for place in model.weak {
        line += &match explore(model, place, longer) {
            (n, Some(said)) if OWN.iter().any(|own| said.starts_with(own)) => {
                format!("; finds \"{place}\" at schedule {n}")
            }
            (n, Some(said)) => format!("; FAILED: \"{place}\" made it stumble at schedule {n}: {said}"),
            (n, None) => format!("; FAILED: \"{place}\" was not found in {n} schedules"),
        };
    }
    line + &format!("; {:.1} s in all", start.elapsed().as_secs_f64())
}

/// The schedules run, and what was said if one of them failed.
fn explore(model: &Model, place: &'static str, longer: usize) -> (usize, Option<String>) {
    SCHEDULES.store(0, Ordering::Relaxed);
    *SAID.lock() = None;
    weak::set(place);
    let outcome = catch_unwind(AssertUnwindSafe(|| (model.explore)(longer)));
    weak::set("");
    let said = outcome.is_err().then(|| SAID.lock().take().unwrap_or_else(|| "a panic that said nothing".into()));
    (SCHEDULES.load(Ordering::Relaxed), said)
}
