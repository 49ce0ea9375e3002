//! `esker man`: manual pages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use super::failure::{Doing, Outcome};
use super::output;

/// Print the manual page, or write all of them to a directory
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker man | man -l -\n  \
    esker man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write one page per subcommand into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(args: &ManArgs) -> Outcome {
    let mut command = super::Cli::command();
    command.build();
    match &args.dir {
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page).doing("manual page")?;
            output::bytes(&page)
        }
        Some(dir) => {
            fs::create_dir_all(dir).doing(dir.display())?;
            clap_mangen::generate_to(command, dir).doing(dir.display())
        }
    }
}
