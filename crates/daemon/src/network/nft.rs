//! The `nft` program, by its JSON interface (libnftables-json(5)).
//!
//! Owner: [`super::host::HostNetworks`], behind its lock. Invariant: each call is one transaction of the kernel's: all of it
//! holds, or nothing of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where administrators' programs are that a user's `PATH` may lack.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];
/// How long it may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How much of a complaint is shown.
const COMPLAINT: usize = 400;

/// Why the host's rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// It is not there.
    #[error("the program nft is missing: 'apt install nftables' (or your system's package of it)")]
    Missing,
    /// It could not be run.
    #[error("the program nft could not be run")]
    Run(#[source] std::io::Error),
    /// It took too long.
    #[error("the program nft did not end within {LIMIT:?}")]
    Slow,
    /// It refused.
    #[error("nft refused the host's rules: {0}")]
    Refused(String),
    /// Its answer makes no sense.
    #[error("the answer of nft is not understood (is it older than version 1.0?)")]
    Answer(#[source] serde_json::Error),
}

/// The program.
#[derive(Clone, Debug)]
pub struct Nft(PathBuf);

impl Nft {
    /// Finds it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find() -> Result<Self, NftError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from));
        let mut programs = places.filter(|place| place.is_absolute()).map(|place| place.join("nft"));
        programs.find(|program| program.is_file()).map(Self).ok_or(NftError::Missing)
    }

    /// Does all of it, or nothing.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn apply(&self, commands: &[Value]) -> Result<(), NftError> {
        let text = json!({ "nftables": commands }).to_string();
        self.run(&["-j", "-f", "-"], text.as_bytes()).await.map(drop)
    }

    /// What it lists: the values of its answer.
    ///
    /// # Errors
    /// When there is no such thing.
    pub async fn list(&self, what: &[&str]) -> Result<Vec<Value>, NftError> {
        let answer = self.run(&[&["-j", "list"], what].concat(), b"").await?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(NftError::Answer)?;
        Ok(match answer.get_mut("nftables").map(Value::take) {
            Some(Value::Array(values)) => values,
            _ => Vec::new(),
        })
    }

    async fn run(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, NftError> {
        let mut command = Command::new::<&Path>(&self.0);
        command.args(args).env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(NftError::Run)?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // Where it does not read to the end, its status says why.
                let _it_says_why = stdin.write_all(input).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(LIMIT, both).await.map_err(|_| NftError::Slow)?;
        let output = output.map_err(NftError::Run)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let complaint: String =
            String::from_utf8_lossy(&output.stderr).trim().chars().take(COMPLAINT).collect();
        Err(NftError::Refused(complaint.replace('\n', " ")))
    }
}
