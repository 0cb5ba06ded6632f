//! Performs the steps on the screen and the keyboard. Pictures that it leaves are evidence in the run directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Scene, StepError};
use crate::board::{Percent, word};
use crate::deadline::{Deadline, Elapsed};
use crate::device::DeviceError;
use crate::device::keyboard::key::Stroke;
use crate::device::screen::{Changes, Seen};
use crate::io::picture::{Picture, PictureError};
use crate::message::chain;
use crate::suite::check::screen::{read_reference, region_of};
use crate::suite::screen::{ExpectScreen, KeyboardStep, Look, ScreenStep};
use crate::suite::{Action, Test};
use crate::sys::blocking::blocking;

/// How often a wait looks at the screen, at most: a person would not notice a tenth of a second.
const LOOKS_PER_SECOND: u32 = 10;

/// What the screen showed before the last step that did something, for a test that waits for a change of it.
#[derive(Debug, Default)]
pub(in crate::suite) struct Before {
    wanted: bool,
    seen: Option<Seen>,
}

impl Before {
    /// Nothing yet, for this test.
    pub fn of(test: &Test) -> Self {
        let waits =
            |action: &Action| matches!(action, Action::Screen(ScreenStep::Wait { look: Look::Changed, .. }));
        Self { wanted: test.steps.iter().any(|step| waits(&step.action)), seen: None }
    }
}

impl Scene<'_> {
    /// Looks at the screen before a step does something, if a later step will want to know.
    pub(super) async fn look_before(&mut self, deadline: Deadline) -> Result<(), StepError> {
        if self.screen_before.wanted {
            let screen = self.device.screen()?;
            self.screen_before.seen = Some(screen.frame(deadline).await.map_err(DeviceError::from)?);
        }
        Ok(())
    }
}

/// Types on the keyboard.
pub(super) async fn keyboard(
    scene: &Scene<'_>,
    step: &KeyboardStep,
    deadline: Deadline,
) -> Result<(), StepError> {
    let strokes: Vec<Stroke> = match step {
        KeyboardStep::Keys(keys) => keys.iter().map(|(_, stroke)| stroke.clone()).collect(),
        KeyboardStep::Text(text) => {
            let text = scene.fill(text)?;
            Stroke::typing(&text)
                .map_err(|error| StepError::Broken(format!("cannot type `{text}`: {error}")))?
        }
    };
    Ok(scene.device.keyboard()?.press(&strokes, deadline).await.map_err(DeviceError::from)?)
}

/// Performs a step on the screen.
pub(super) async fn perform(
    scene: &mut Scene<'_>,
    step: &ScreenStep,
    deadline: Deadline,
) -> Result<(), StepError> {
    match step {
        ScreenStep::Shot(name) => shot(scene, name, deadline).await,
        ScreenStep::Expect(expected) => expect(scene, expected, deadline).await,
        ScreenStep::Wait { look, tolerance } => wait(scene, *look, *tolerance, deadline).await,
    }
}

async fn shot(scene: &mut Scene<'_>, name: &str, deadline: Deadline) -> Result<(), StepError> {
    match scene.device.screen()?.frame(deadline).await.map_err(DeviceError::from)? {
        Seen::Picture(picture) => keep(scene, &format!("screenshot-{name}"), picture).await.map(drop),
        Seen::Off => Err(is_off()),
        Seen::NoSignal => Err(StepError::Failed("the screen has no signal".to_owned())),
    }
}

async fn expect(scene: &mut Scene<'_>, expected: &ExpectScreen, deadline: Deadline) -> Result<(), StepError> {
    let reference = reference(expected).await?;
    let mut changes = scene.device.screen()?.changes(LOOKS_PER_SECOND);
    let (mut nearest, mut last) = (None::<f64>, None);
    let given = loop {
        let picture = match next(&mut changes, deadline).await? {
            Ok(Seen::Picture(picture)) => picture,
            Ok(Seen::NoSignal) => continue,
            Ok(Seen::Off) => return Err(is_off()),
            Err(Elapsed { given }) => break given,
        };
        last = Some(picture.clone());
        let (reference, region) = (reference.clone(), expected.region);
        let differs = blocking(move || match region {
            Some(region) => picture.cut(region)?.difference(&reference),
            None => picture.difference(&reference),
        });
        match differs.await {
            Some(share) if share <= expected.tolerance.0 => return Ok(()),
            Some(share) => nearest = Some(nearest.map_or(share, |best| best.min(share))),
            None => {}
        }
    };
    let shown = expected.reference.display();
    let Some(last) = last else {
        let message = format!("the screen did not show {shown} within {given:?}: it had no signal");
        return Err(StepError::Failed(message));
    };
    let how = how_far(expected, &reference, &last, nearest);
    let seen = keep(scene, "screen-seen", last.clone()).await?;
    let mut files = format!("the last picture is {seen}");
    let region = expected.region;
    let marked = blocking(move || match region {
        Some(region) => last.cut(region)?.mark_difference(&reference),
        None => last.mark_difference(&reference),
    });
    if let Some(marked) = marked.await {
        let marked = keep(scene, "screen-difference", Arc::new(marked)).await?;
        files.push_str(&format!(", what differs in it is red in {marked}"));
    }
    Err(StepError::Failed(format!("the screen did not show {shown} within {given:?}: {how}\n{files}")))
}

/// What the screen, or the region of it, must show.
async fn reference(expected: &ExpectScreen) -> Result<Arc<Picture>, StepError> {
    let (path, region) = (expected.reference.clone(), expected.region);
    let read = move || match (read_reference(&path), region) {
        (Ok(whole), Some(region)) => region_of(&whole, region)
            .ok_or_else(|| format!("{} is {whole} and has no part of {region}", path.display())),
        (Ok(whole), None) => Ok(whole),
        (Err(reason), _) => Err(format!("cannot read picture {}: {reason}", path.display())),
    };
    blocking(read).await.map(Arc::new).map_err(StepError::Broken)
}

fn how_far(expected: &ExpectScreen, reference: &Picture, last: &Picture, nearest: Option<f64>) -> String {
    match (nearest, expected.region) {
        (Some(share), _) => {
            let (share, allowed) = (Percent(share), expected.tolerance);
            format!("in the nearest picture {share} of the pixels differ, and {allowed} may")
        }
        (None, Some(region)) => format!("the screen is {last}, and has no part of {region}"),
        (None, None) => format!("the screen is {last}, and the picture {reference}"),
    }
}

async fn wait(
    scene: &mut Scene<'_>,
    look: Look,
    tolerance: Percent,
    deadline: Deadline,
) -> Result<(), StepError> {
    let mut changes = scene.device.screen()?.changes(LOOKS_PER_SECOND);
    let mut last = None;
    let given = loop {
        let seen = match next(&mut changes, deadline).await? {
            Ok(Seen::Off) => return Err(is_off()),
            Ok(seen) => seen,
            Err(Elapsed { given }) => break given,
        };
        // Without a step that did something there is no other picture to change from than the first.
        let before = scene.screen_before.seen.get_or_insert_with(|| seen.clone()).clone();
        last = Some(seen.clone());
        let (there, seen) = blocking(move || (has_look(look, &before, &seen, tolerance.0), seen)).await;
        if there {
            scene.screen_before.seen = Some(seen);
            return Ok(());
        }
    };
    let message = format!("the screen was not {} within {given:?}", word(&look));
    Err(StepError::Failed(match last {
        Some(Seen::Picture(picture)) => {
            let looked = picture.clone();
            let drawn = Percent(blocking(move || looked.drawn()).await);
            let seen = keep(scene, "screen-seen", picture).await?;
            format!("{message}: {drawn} of it is not of its commonest colour; the last picture is {seen}")
        }
        _ => format!("{message}: it has no signal"),
    }))
}

fn has_look(look: Look, before: &Seen, seen: &Seen, tolerance: f64) -> bool {
    let drawn = match seen {
        Seen::Picture(picture) => picture.drawn() > tolerance,
        Seen::Off | Seen::NoSignal => false,
    };
    match look {
        Look::Blank => !drawn,
        Look::Drawn => drawn,
        Look::Changed => match (before, seen) {
            // Another size is another picture.
            (Seen::Picture(before), Seen::Picture(seen)) => {
                before.difference(seen).is_none_or(|share| share > tolerance)
            }
            (Seen::Picture(_), _) | (_, Seen::Picture(_)) => true,
            _ => false,
        },
    }
}

/// The next change of the screen, or that there was none in time.
async fn next(changes: &mut Changes, deadline: Deadline) -> Result<Result<Seen, Elapsed>, StepError> {
    match deadline.bound(changes.next()).await {
        Ok(seen) => Ok(Ok(seen.map_err(DeviceError::from)?)),
        Err(elapsed) => Ok(Err(elapsed)),
    }
}

fn is_off() -> StepError {
    StepError::Failed("the screen is dark: the DUT does not run".to_owned())
}

/// Writes a picture beside the other evidence of the test; returns its name there.
async fn keep(scene: &mut Scene<'_>, what: &str, picture: Arc<Picture>) -> Result<String, StepError> {
    let name = format!("{}-{what}.png", scene.prefix);
    let path = scene.options.run_dir.join(&name);
    let written = blocking(move || write(&path, &picture)).await;
    written.map_err(StepError::Broken)?;
    scene.evidence.push(PathBuf::from(&name));
    Ok(name)
}

fn write(path: &Path, picture: &Picture) -> Result<(), String> {
    let png = picture.to_png().map_err(|error: PictureError| chain(&error))?;
    std::fs::write(path, png).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
