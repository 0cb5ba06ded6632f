//! The check of steps on the screen and the keyboard. Reads the reference pictures, and leaves nothing.

use std::path::Path;

use super::Check;
use crate::board::Percent;
use crate::device::keyboard::key::Stroke;
use crate::io::picture::{Picture, Region};
use crate::message::chain;
use crate::suite::file::{RegionFile, StepFile};
use crate::suite::screen::{ExpectScreen, KeyboardStep, Look, ScreenStep};

/// The largest blinking cursor is a whole letter of a screen of 80x25, which is a two thousandth of it.
const CURSOR: Percent = Percent(0.0005);

impl Check<'_, '_> {
    /// The keys of a `keyboard` step; all that have no such name are complained about.
    pub(super) fn keys(&mut self, key: &str, names: Vec<String>) -> KeyboardStep {
        if names.is_empty() {
            self.document.complain(key, "expected at least one key, found none");
        }
        let mut keys = Vec::new();
        for name in names {
            match Stroke::parse(&name) {
                Ok(stroke) => keys.push((name, stroke)),
                Err(error) => self.document.complain_with_hint(key, error.to_string(), error.hint()),
            }
        }
        KeyboardStep::Keys(keys)
    }

    /// The text of a `keyboard_text` step.
    pub(super) fn keyboard_text(&mut self, key: &str, text: &str) -> KeyboardStep {
        let template = self.text(key, text);
        if let Err(error) = Stroke::typing(&template.fill_all("x")) {
            self.document.complain(key, error.to_string());
        }
        KeyboardStep::Text(template)
    }

    /// The name of a screenshot, which becomes that of a file.
    pub(super) fn shot(&mut self, key: &str, name: String) -> ScreenStep {
        self.variable_name(key, &name);
        if !self.shots.insert(name.clone()) {
            self.document
                .complain(key, format!("expected a name of its own in its test, found `{name}` again"));
        }
        ScreenStep::Shot(name)
    }

    /// An `expect_screen` step; `key` is that of the step.
    pub(super) fn expect_screen(&mut self, key: &str, file: &StepFile) -> Option<ScreenStep> {
        let inner = format!("{key}.expect_screen");
        let reference = self.path(&inner, file.expect_screen.as_deref()?)?;
        let region = match &file.region {
            Some(region) => Some(self.region(&format!("{key}.region"), region)?),
            None => None,
        };
        if reference.is_file() {
            match read_reference(&reference) {
                Ok(picture) => self.fits(&format!("{key}.region"), &picture, region),
                Err(reason) => {
                    let shown = reference.display();
                    self.document
                        .complain(&inner, format!("expected a PNG picture, found `{shown}`: {reason}"));
                }
            }
        }
        let tolerance = file.tolerance.unwrap_or(Percent(0.0));
        Some(ScreenStep::Expect(ExpectScreen { reference, region, tolerance }))
    }

    pub(super) fn wait_screen(&mut self, look: Look, tolerance: Option<Percent>) -> ScreenStep {
        ScreenStep::Wait { look, tolerance: tolerance.unwrap_or(CURSOR) }
    }

    fn region(&mut self, key: &str, file: &RegionFile) -> Option<Region> {
        let (width, height) = (file.width?, file.height?);
        if width == 0 || height == 0 {
            self.document.complain(key, format!("expected at least one pixel, found {width}x{height}"));
            return None;
        }
        Some(Region { x: file.x, y: file.y, width, height })
    }

    fn fits(&mut self, key: &str, picture: &Picture, region: Option<Region>) {
        if let Some(region) = region
            && region_of(picture, region).is_none()
        {
            let message = format!("expected a part of the picture, which is {picture}, found {region}");
            self.document.complain(key, message);
        }
    }
}

/// The reference picture, or why it is none.
pub(in crate::suite) fn read_reference(path: &Path) -> Result<Picture, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Picture::from_png(&bytes).map_err(|error| chain(&error))
}

/// What a reference shows of a region: that part of it, or all if it is a picture of the region alone.
pub(in crate::suite) fn region_of(reference: &Picture, region: Region) -> Option<Picture> {
    if (reference.width(), reference.height()) == (region.width, region.height) {
        return Some(reference.clone());
    }
    reference.cut(region)
}
