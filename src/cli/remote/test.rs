//! `standin test --worker`: a suite is sent to a server, runs there, and is told and reported as if it ran here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path};

use serde::Deserialize;

use super::Client;
use crate::cli::interrupt::Interrupted;
use crate::cli::{CliError, say};
use crate::report::detail::Setting;
use crate::suite::outcome::SuiteReport;
use crate::suite::progress::{Progress, ToldProgress};
use crate::worker::api::error::ErrorFacts;
use crate::worker::api::{FileFacts, RunFacts, RunOrder};

/// Where a suite runs, from the server's point of view.
#[derive(Debug)]
pub struct Begun {
    /// On what it runs.
    pub setting: Setting,
    /// The path of the run.
    at: String,
}

/// The last line of a run.
#[derive(Debug, Deserialize)]
struct RunEnds {
    report: Option<SuiteReport>,
    error: Option<ErrorFacts>,
}

/// The type of the last line.
#[derive(Debug, Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

/// Begins a run.
pub async fn begin(client: &Client, order: &RunOrder) -> Result<Begun, CliError> {
    let run: RunFacts = client.post("/v1/runs", order).await?;
    let setting = serde_json::from_value(run.setting).map_err(CliError::broken)?;
    Ok(Begun { setting, at: format!("/v1/runs/{}", run.id) })
}

/// Tells of a run to its end, and puts its evidence into `evidence`. Interrupted, it cancels the run and goes on to
/// what is known of it then.
pub async fn follow(
    client: &Client,
    begun: &Begun,
    evidence: &Path,
    told: &mut dyn FnMut(&Progress<'_>),
    interrupted: &Interrupted,
) -> Result<SuiteReport, CliError> {
    let at = &begun.at;
    let mut stream = client.open(&format!("{at}/progress"), "*/*").await?;
    let (mut text, mut ended) = (Vec::new(), None);
    let mut asked = interrupted.clone();
    let mut is_cancelled = false;
    while ended.is_none() {
        tokio::select! {
            biased;
            _ = asked.wait_for(|asked| *asked), if !is_cancelled => {
                is_cancelled = true;
                let _: RunFacts = client.delete(at).await?;
            }
            piece = stream.next() => {
                let piece = piece.map_err(CliError::broken)?;
                let early = || CliError::broken("the server ended in the middle of the run");
                text.extend_from_slice(&piece.ok_or_else(early)?);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let Typed { kind } = serde_json::from_slice(&line).map_err(CliError::broken)?;
                    if kind == "run-ends" {
                        ended = Some(serde_json::from_slice::<RunEnds>(&line).map_err(CliError::broken)?);
                    } else if let Ok(progress) = serde_json::from_slice::<ToldProgress>(&line) {
                        told(&progress.news());
                    }
                }
            }
        }
    }
    fetch(client, at, evidence).await?;
    let removed: Result<RunFacts, CliError> = client.delete(at).await;
    if removed.is_err() {
        say("the server keeps what is left of the run until it ends");
    }
    match ended {
        Some(RunEnds { report: Some(report), .. }) => Ok(report),
        Some(RunEnds { error: Some(error), .. }) => Err(error.into()),
        _ => Err(CliError::broken("the server told nothing of how the run ended")),
    }
}

/// Fetches all evidence of a run.
async fn fetch(client: &Client, at: &str, evidence: &Path) -> Result<(), CliError> {
    let files: Vec<FileFacts> = client.get(&format!("{at}/files")).await?;
    for file in files {
        let name = Path::new(&file.name);
        // A server may say anything.
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(CliError::broken(format!("the server has a file with the name `{}`", file.name)));
        }
        let path = evidence.join(name);
        fs::create_dir_all(path.parent().unwrap_or(evidence)).map_err(CliError::broken)?;
        let mut content = client.open(&format!("{at}/files/{}", in_path(&file.name)), "*/*").await?;
        let mut written = File::create(&path).map_err(CliError::broken)?;
        while let Some(piece) = content.next().await.map_err(CliError::broken)? {
            written.write_all(&piece).map_err(CliError::broken)?;
        }
    }
    Ok(())
}

/// A name as it stands in a URL's path (RFC 3986, 2.3); its slashes stay.
pub fn in_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_escaped_for_a_path() {
        assert_eq!(in_path("a b/c%d-ä.log"), "a%20b/c%25d-%C3%A4.log");
    }
}
