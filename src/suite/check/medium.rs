//! Checks the steps on a medium at the host: places, and what is written to them.

use serde_json::{Map, Value};

use super::Check;
use crate::io::prepare::Place;
use crate::suite::file::StepFile;
use crate::suite::medium::{Content, MediumStep, MediumVerb};

/// The verbs of these steps.
pub(super) const VERBS: [&str; 5] = ["write_file", "merge_json", "remove_file", "read_file", "expand"];

impl Check<'_, '_> {
    pub(super) fn medium_step(&mut self, key: &str, verb: &str, file: StepFile) -> Option<MediumStep> {
        let inner = format!("{key}.{verb}");
        let medium = file.medium.clone();
        let verb = match verb {
            "write_file" | "merge_json" => {
                let merges = verb == "merge_json";
                let place = self.place(&inner, if merges { &file.merge_json } else { &file.write_file });
                let content = self.content(key, &file);
                let (place, content) = (place?, content?);
                if let (true, Content::Text(text)) = (merges, &content) {
                    // Variables may stand for numbers and for parts of texts.
                    if let Err(error) = serde_json::from_str::<Map<String, Value>>(&text.fill_all("0")) {
                        let message = format!("expected a JSON object, found none: {error}");
                        self.document.complain(&format!("{key}.content"), message);
                    }
                }
                if merges { MediumVerb::MergeJson(place, content) } else { MediumVerb::Write(place, content) }
            }
            "remove_file" => MediumVerb::Remove(self.place(&inner, &file.remove_file)?),
            "read_file" => {
                let content = file.content.map(|text| self.template(&format!("{key}.content"), &text));
                let content_regex =
                    file.content_regex.map(|text| self.regex(&format!("{key}.content_regex"), &text));
                if let Some(name) = &file.save {
                    self.set_by_step(&format!("{key}.save"), name);
                }
                let place = self.place(&inner, &file.read_file)?;
                MediumVerb::Read { place, content, content_regex, save: file.save }
            }
            _ => {
                if file.expand == Some(false) {
                    self.document.complain(&inner, "expected `true`, found `false`");
                }
                MediumVerb::Expand
            }
        };
        Some(MediumStep { medium, verb })
    }

    fn place(&mut self, key: &str, text: &Option<String>) -> Option<Place> {
        Place::of_file(text.as_ref()?).map_err(|error| self.document.complain(key, error.to_string())).ok()
    }

    fn content(&mut self, key: &str, file: &StepFile) -> Option<Content> {
        match (&file.content, &file.from) {
            (Some(text), None) => Some(Content::Text(self.template(&format!("{key}.content"), text))),
            (None, Some(path)) => self.path(&format!("{key}.from"), path).map(Content::File),
            (found, _) => {
                let found = if found.is_some() { "both" } else { "neither" };
                self.document.complain(key, format!("expected `content` or `from`, found {found}"));
                None
            }
        }
    }
}
