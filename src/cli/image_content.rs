//! `standin image`: what an image holds, without root and without unpacking it by hand.
//!
//! The image is read into the cache, as for a flash, and never changed.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::prepare::open_base;
use super::{CliError, Context, Exit, Output, human};
use crate::io::cache::Cache;
use crate::io::image::Image;
use crate::io::partition::{PartitionKind, Scheme};
use crate::io::prepare::listing::{Listed, partitions};
use crate::io::prepare::{Place, PrepareError, files};
use crate::io::selftest::SELFTEST_IMAGE;
use crate::io::staged::Staged;
use crate::sys::blocking::blocking;

/// What follows `standin image`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 if it is done, 2 if the image does not hold what was asked for, 3 if the host \
                        failed."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the partitions, and what is known of each
    Partitions {
        /// The image, of any format that can be flashed; `selftest` is the built-in one
        image: PathBuf,
        /// One JSON object per line, the last one the summary
        #[arg(long)]
        json: bool,
    },
    /// List a folder of a FAT partition
    Ls {
        /// The image, of any format that can be flashed; `selftest` is the built-in one
        image: PathBuf,
        /// Partition and path, such as `boot:/` or `1:/EFI/BOOT`
        #[arg(value_name = "PLACE")]
        place: Place,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Print a file of a FAT partition, byte by byte
    Cat {
        /// The image, of any format that can be flashed; `selftest` is the built-in one
        image: PathBuf,
        /// Partition and path, such as `boot:/config.json`
        #[arg(value_name = "PLACE", value_parser = Place::of_file)]
        place: Place,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read image {image}")]
struct ReadError {
    image: PathBuf,
    source: PrepareError,
}

/// Looks into the image.
pub async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let cache = context.place.images()?;
    blocking(move || perform(args.command, &cache)).await
}

fn perform(command: Command, cache: &Cache) -> Result<Exit, CliError> {
    let (Command::Partitions { image: name, .. }
    | Command::Ls { image: name, .. }
    | Command::Cat { image: name, .. }) = &command;
    let image = if name.as_os_str() == "selftest" {
        Image::built_in("selftest", SELFTEST_IMAGE, cache)?
    } else {
        Image::open(name, cache, "none", u64::MAX)?
    };
    let failed = |source: PrepareError| {
        let is_hosts = source.is_hosts();
        let error = ReadError { image: name.clone(), source };
        if is_hosts { CliError::broken(error) } else { CliError::usage(error) }
    };
    let mut disk = Staged::new(open_base(&image.base().path())?).map_err(|error| failed(error.into()))?;
    let mut output = Output::default();
    match &command {
        Command::Partitions { json, .. } => {
            let (scheme, listed) = partitions(&mut disk).map_err(failed)?;
            show_partitions(scheme, &listed, *json, &mut output)?;
        }
        Command::Ls { place, json, .. } => {
            for entry in files::list(&mut disk, place).map_err(failed)? {
                match (json, entry.bytes) {
                    (true, bytes) => output.json(&json!({ "name": entry.name, "bytes": bytes }))?,
                    (false, Some(bytes)) => output.line(format_args!("{bytes:>12}  {}", entry.name))?,
                    (false, None) => output.line(format_args!("{:>12}  {}/", "", entry.name))?,
                }
            }
        }
        Command::Cat { place, .. } => {
            let content = files::read(&mut disk, place).map_err(failed)?;
            drop(output);
            io::stdout().lock().write_all(&content)?;
        }
    }
    Ok(Exit::Passed)
}

fn show_partitions(
    scheme: Scheme,
    listed: &[Listed],
    json: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    if json {
        for Listed { partition, file_system, label } in listed {
            output.json(&json!({
                "type": "partition",
                "number": partition.number,
                "name": partition.name,
                "label": label,
                "file_system": file_system,
                "kind": kind(partition.kind),
                "offset_bytes": partition.offset_bytes,
                "size_bytes": partition.size_bytes,
            }))?;
        }
        let scheme = match scheme {
            Scheme::Mbr => "mbr",
            Scheme::Gpt => "gpt",
        };
        return output.json(&json!({ "type": "summary", "scheme": scheme, "partitions": listed.len() }));
    }
    let head = ["NUMBER", "NAME", "LABEL", "START", "SIZE", "FILE SYSTEM", "KIND"].map(str::to_owned);
    let rows = listed.iter().map(|Listed { partition, file_system, label }| {
        [
            partition.number.to_string(),
            partition.name.clone(),
            label.clone(),
            human(partition.offset_bytes),
            human(partition.size_bytes),
            file_system.unwrap_or("unknown").to_owned(),
            kind(partition.kind),
        ]
    });
    output.table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// As other tools write it: a byte of an MBR as `0c`, a GUID of a GPT with its first three numbers in little-endian.
fn kind(kind: PartitionKind) -> String {
    match kind {
        PartitionKind::Mbr(kind) => format!("{kind:02x}"),
        PartitionKind::Gpt(guid) => {
            let hex =
                |bytes: &[usize]| bytes.iter().map(|at| format!("{:02X}", guid[*at])).collect::<String>();
            let parts = [&[3, 2, 1, 0][..], &[5, 4], &[7, 6], &[8, 9], &[10, 11, 12, 13, 14, 15]];
            parts.map(hex).join("-")
        }
    }
}
