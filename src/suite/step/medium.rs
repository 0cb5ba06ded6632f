//! Performs a step on a medium at the host.

use super::{Scene, StepError};
use crate::deadline::{Deadline, Elapsed};
use crate::device::console::quote;
use crate::io::prepare::{Edit, Place};
use crate::suite::medium::{Content, MediumStep, MediumVerb};

/// Cancelled, it leaves the medium unknown, if it was to be changed.
pub(super) async fn perform(
    scene: &mut Scene<'_>,
    step: &MediumStep,
    deadline: Deadline,
) -> Result<(), StepError> {
    let medium = step.medium.as_deref();
    let late = |Elapsed { given }| StepError::Broken(format!("the medium was not done within {given:?}"));
    let edit = match &step.verb {
        MediumVerb::Read { place, .. } => {
            let read = deadline.bound(scene.device.read_file(medium, place)).await.map_err(late)??;
            return examine(scene, place, read, &step.verb);
        }
        MediumVerb::Write(to, content) => Edit::Write { to: to.clone(), content: bytes(scene, content)? },
        MediumVerb::MergeJson(into, content) => {
            let no_json = |error| {
                StepError::impossible(&format!("what is merged into `{into}` is no JSON object: {error}"))
            };
            let patch = serde_json::from_slice(&bytes(scene, content)?).map_err(no_json)?;
            Edit::MergeJson { into: into.clone(), patch }
        }
        MediumVerb::Remove(place) => Edit::Remove { place: place.clone() },
        MediumVerb::Expand => Edit::Expand,
    };
    deadline.bound(scene.device.prepare(medium, &[edit])).await.map_err(late)??;
    Ok(())
}

fn bytes(scene: &Scene<'_>, content: &Content) -> Result<Vec<u8>, StepError> {
    match content {
        Content::Text(text) => Ok(scene.fill(text)?.into_bytes()),
        Content::File(path) => std::fs::read(path)
            .map_err(|error| StepError::impossible(&format!("cannot read {}: {error}", path.display()))),
    }
}

fn examine(scene: &mut Scene<'_>, place: &Place, read: Vec<u8>, verb: &MediumVerb) -> Result<(), StepError> {
    let MediumVerb::Read { content, content_regex, save, .. } = verb else { return Ok(()) };
    let text = String::from_utf8(read)
        .map_err(|error| StepError::Failed(format!("`{place}` is no text: {}", error.utf8_error())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    let found = || match text {
        "" => "and is empty".to_owned(),
        text => format!("and says:{}", quote(text.as_bytes())),
    };
    if let Some(wanted) = content {
        let wanted = scene.fill(wanted)?;
        if text != wanted {
            return Err(StepError::Failed(format!("`{place}` should say `{wanted}`, {}", found())));
        }
    }
    if let Some(wanted) = content_regex {
        let wanted = scene.pattern(wanted)?;
        if !wanted.matches(text) {
            return Err(StepError::Failed(format!("`{place}` should match {wanted}, {}", found())));
        }
    }
    if let Some(name) = save {
        scene.values.insert(name.clone(), text.to_owned());
    }
    Ok(())
}
