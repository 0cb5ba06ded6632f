//! Progress for programs: one JSON object on each line, the last one the summary.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::detail::Setting;
use super::summary::Summary;
use crate::suite::progress::Progress;

/// Writes objects line by line, each at once.
#[derive(Debug)]
pub struct JsonLines<W> {
    out: W,
    /// Why nothing is written any more; the run goes on.
    failed: Option<io::Error>,
}

impl<W: Write> JsonLines<W> {
    /// Writes to `out`, which is stdout in all but tests.
    pub fn new(out: W) -> Self {
        Self { out, failed: None }
    }

    /// Tells on what the suites that follow run.
    pub fn board(&mut self, setting: &Setting) {
        self.write(&json!({ "type": "board-begins", "setting": setting }));
    }

    /// Tells one piece of news.
    pub fn show(&mut self, news: &Progress<'_>) {
        self.write(news);
    }

    /// Tells the end, which is the last line. Returns why not all was written; the caller knows whether a closed
    /// pipe is an error.
    pub fn finish(mut self, summary: &Summary) -> io::Result<()> {
        self.write(summary);
        self.failed.map_or(Ok(()), Err)
    }

    fn write(&mut self, value: &impl Serialize) {
        if self.failed.is_none() {
            let line =
                serde_json::to_string(value).expect("progress has text keys and no value that can fail");
            self.failed = writeln!(self.out, "{line}").and_then(|()| self.out.flush()).err();
        }
    }
}
