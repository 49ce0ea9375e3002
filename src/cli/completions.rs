//! `esker completions`: completion scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::Outcome;
use super::output;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker completions bash > /etc/bash_completion.d/esker\n  \
    esker completions fish > ~/.config/fish/completions/esker.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "esker", &mut script);
    output::bytes(&script)
}
