//! Progress for programs: one JSON object on each line, the last one the summary.

use std::io::Write;

use serde::Serialize;
use serde_json::json;

use super::detail::Setting;
use super::summary::Summary;
use crate::suite::progress::Progress;

/// Writes objects line by line, each at once.
#[derive(Debug)]
pub struct JsonLines<W> {
    out: W,
    /// Nobody reads any more, which is no error; the run goes on.
    closed: bool,
}

impl<W: Write> JsonLines<W> {
    /// Writes to `out`, which is stdout in all but tests.
    pub fn new(out: W) -> Self {
        Self { out, closed: false }
    }

    /// Tells on what the suites that follow run.
    pub fn board(&mut self, setting: &Setting) {
        self.write(&json!({ "type": "board-begins", "setting": setting }));
    }

    /// Tells one piece of news.
    pub fn show(&mut self, news: &Progress<'_>) {
        self.write(news);
    }

    /// Tells the end; the last line.
    pub fn finish(&mut self, summary: &Summary) {
        self.write(summary);
    }

    fn write(&mut self, value: &impl Serialize) {
        if !self.closed {
            let line =
                serde_json::to_string(value).expect("progress has text keys and no value that can fail");
            self.closed = writeln!(self.out, "{line}").and_then(|()| self.out.flush()).is_err();
        }
    }
}
