//! The screen of whatever device a keeper has, live for all who look: one picture for all of them.
//!
//! Each door to a device has one. What watches the screen ends with it, or with the next look after the device was
//! renewed.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::keeper::Handles;
use crate::device::capture::{Live, Shown};

/// How often another picture is shown at most: moving, and cheap for the DUT.
const FRAMES_PER_SECOND: u32 = 10;

/// The live screen of one keeper.
#[derive(Debug, Default)]
pub struct LiveScreen {
    /// With the hold that it belongs to.
    live: Mutex<Option<(u64, Live)>>,
}

impl LiveScreen {
    /// A view of the screen of this hold; `None` if it has none. Dropped, it costs the DUT nothing more.
    pub fn look(&self, handles: &Handles) -> Option<watch::Receiver<Shown>> {
        let screen = handles.screen.clone()?;
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((hold, live)) = &*live
            && *hold == handles.hold
        {
            return Some(live.look());
        }
        let started = Live::start(screen, FRAMES_PER_SECOND);
        let view = started.look();
        *live = Some((handles.hold, started));
        Some(view)
    }

    /// Ends all views.
    pub fn end(&self) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
