//! Where passwords come from: never from the command line, which every user of the machine can read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use zeroize::{Zeroize, Zeroizing};

use super::failure::{Exit, Failure};

/// Longest password, in bytes.
const MAX_PASSWORD: u64 = 4096;

/// Name of the credential below `$CREDENTIALS_DIRECTORY` (systemd.exec(5), LoadCredential=).
const CREDENTIAL: &str = "esker-password";

/// Flags that say where the pool's password is.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// File that holds the pool's password; one newline at its end is not part of it. Otherwise it is taken from
    /// ESKER_PASSWORD, from the systemd credential `esker-password`, or asked for
    #[arg(long, value_name = "FILE", help_heading = "Pool")]
    pub password_file: Option<PathBuf>,
}

impl PasswordArgs {
    /// The password of an existing pool.
    ///
    /// # Errors
    /// Where there is none and nobody to ask, or its file cannot be read.
    pub fn current(&self) -> Result<SecretString, Failure> {
        Source { file: self.password_file.as_deref(), variable: "ESKER_PASSWORD", credential: Some(CREDENTIAL) }
            .read("Password: ", false)
    }

    /// The password of a pool that is being made: asked for twice.
    ///
    /// # Errors
    /// As [`PasswordArgs::current`], and where the two differ.
    pub fn first(&self) -> Result<SecretString, Failure> {
        Source { file: self.password_file.as_deref(), variable: "ESKER_PASSWORD", credential: Some(CREDENTIAL) }
            .read("Password for the new pool: ", true)
    }
}

/// The password that replaces another: from `file`, ESKER_NEW_PASSWORD, or asked for twice.
///
/// # Errors
/// As [`PasswordArgs::first`].
pub fn replacement(file: Option<&Path>) -> Result<SecretString, Failure> {
    Source { file, variable: "ESKER_NEW_PASSWORD", credential: None }.read("New password: ", true)
}

struct Source<'a> {
    file: Option<&'a Path>,
    variable: &'static str,
    credential: Option<&'static str>,
}

impl Source<'_> {
    fn read(&self, prompt: &str, twice: bool) -> Result<SecretString, Failure> {
        let given = self.given(|name| std::env::var_os(name))?;
        let password = match given {
            Some(password) => password,
            None => self.ask(prompt, twice)?,
        };
        if password.expose_secret().is_empty() {
            return Err(Failure::new(Exit::Usage, "password", "it is empty; choose one that cannot be guessed"));
        }
        Ok(password)
    }

    /// What is given without asking anybody.
    fn given(&self, var: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Option<SecretString>, Failure> {
        if let Some(file) = self.file {
            return read_file(file).map(Some);
        }
        if let Some(value) = var(self.variable) {
            let text = value.into_string().map_err(|_| not_text(self.variable))?;
            return Ok(Some(SecretString::from(text)));
        }
        let (Some(name), Some(dir)) = (self.credential, var("CREDENTIALS_DIRECTORY")) else { return Ok(None) };
        let file = Path::new(&dir).join(name);
        if file.exists() { read_file(&file).map(Some) } else { Ok(None) }
    }

    fn ask(&self, prompt: &str, twice: bool) -> Result<SecretString, Failure> {
        let first = self.prompt(prompt)?;
        if twice && self.prompt("Again: ")?.expose_secret() != first.expose_secret() {
            return Err(Failure::new(Exit::Failure, "password", "the two do not match; nothing was changed"));
        }
        Ok(first)
    }

    fn prompt(&self, prompt: &str) -> Result<SecretString, Failure> {
        rpassword::prompt_password(prompt).map(SecretString::from).map_err(|e| {
            let why = format!("none was given and nobody can be asked ({e}); set {} or name a file", self.variable);
            Failure::new(Exit::Usage, "password", why)
        })
    }
}

fn read_file(path: &Path) -> Result<SecretString, Failure> {
    let what = || format!("password file {}", path.display());
    let failed = |e: io::Error| Failure::new(Exit::Usage, what(), e);
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_file() && meta.mode() & 0o044 != 0 {
        tracing::warn!("{} can be read by other users (mode {:04o}): chmod 600 it", what(), meta.mode() & 0o7777);
    }
    // Sized once: growing would leave copies of the secret in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD as usize + 1));
    file.take(MAX_PASSWORD + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_PASSWORD {
        return Err(Failure::new(Exit::Usage, what(), format!("it is longer than {MAX_PASSWORD} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| not_text(&what()))?;
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    let mut owned = text.to_owned();
    let secret = SecretString::from(owned.as_str());
    owned.zeroize();
    Ok(secret)
}

fn not_text(what: &str) -> Failure {
    Failure::new(Exit::Usage, what, "the password is not UTF-8 text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ffi::OsString;
    use std::fs;

    use super::*;

    fn source(file: Option<&Path>) -> Source<'_> {
        Source { file, variable: "ESKER_PASSWORD", credential: Some(CREDENTIAL) }
    }

    #[test]
    fn one_newline_at_the_end_is_stripped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pw");
        for (content, password) in [("a b", "a b"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a ")] {
            fs::write(&file, content).unwrap();
            assert_eq!(read_file(&file).unwrap().expose_secret(), password);
        }
    }

    #[test]
    fn bad_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pw");
        assert!(read_file(&file).unwrap_err().to_string().contains("password file"));
        fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(read_file(&file).unwrap_err().to_string().contains("UTF-8"));
        fs::write(&file, vec![b'x'; MAX_PASSWORD as usize + 1]).unwrap();
        assert!(read_file(&file).unwrap_err().to_string().contains("longer"));
        fs::write(&file, "\n").unwrap();
        assert!(source(Some(&file)).read("", false).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn a_file_comes_before_the_variable_and_that_before_the_credential() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CREDENTIAL), "credential\n").unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "file").unwrap();
        let both = |name: &str| match name {
            "ESKER_PASSWORD" => Some(OsString::from("variable")),
            "CREDENTIALS_DIRECTORY" => Some(dir.path().into()),
            _ => None,
        };
        let directory_only = |name: &str| both(name).filter(|_| name == "CREDENTIALS_DIRECTORY");
        let got = |s: Option<SecretString>| s.map(|s| s.expose_secret().to_owned());
        assert_eq!(got(source(Some(&file)).given(both).unwrap()).as_deref(), Some("file"));
        assert_eq!(got(source(None).given(both).unwrap()).as_deref(), Some("variable"));
        assert_eq!(got(source(None).given(directory_only).unwrap()).as_deref(), Some("credential"));
        assert_eq!(got(source(None).given(|_| None).unwrap()), None);
    }
}
