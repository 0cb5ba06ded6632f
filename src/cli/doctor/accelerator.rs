//! What speeds machines up on this host, and how we know.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::board::{Board, Firmware};
use crate::lab::player::{AcceleratorChoice, Host, PlayerError, choose};
use crate::qemu::arguments::Accelerator;

/// One accelerator of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceleratorReport {
    /// QEMU's name of it.
    pub name: Accelerator,
    /// Whether machines may be started with it.
    pub usable: bool,
    /// What was seen, in a line.
    pub evidence: String,
}

impl AcceleratorReport {
    /// TCG needs nothing of the host.
    pub fn tcg() -> Self {
        let evidence = "it needs nothing of the host".to_owned();
        Self { name: Accelerator::Tcg, usable: true, evidence }
    }

    /// What a boot under KVM showed, now or when it was first tried; or why none was tried.
    ///
    /// A board with UEFI is tried if there is one: that fails on hosts where SeaBIOS still starts.
    pub async fn kvm(boards: &[Arc<Board>], host: &Host) -> Self {
        let native = boards.iter().filter(|board| board.arch.qemu_name() == std::env::consts::ARCH);
        let uefi_first = native.min_by_key(|board| board.qemu.firmware != Firmware::Uefi);
        let Some(board) = uefi_first else { return Self::kvm_untried(Path::new(KVM)) };
        let only_kvm = AcceleratorChoice::Only(Accelerator::Kvm);
        let (usable, evidence) = match choose(board, host, only_kvm).await {
            Ok(chosen) if chosen.player.accelerator == Accelerator::Kvm => {
                (true, format!("the self-test booted on {}", board.slug))
            }
            Err(PlayerError::NoKvm { evidence, .. }) => (false, evidence),
            Ok(_) | Err(_) => return Self::kvm_untried(Path::new(KVM)),
        };
        Self { name: Accelerator::Kvm, usable, evidence }
    }

    /// What KVM's device file says, which is never enough to count on it: on nested hosts it opens, and every
    /// start fails.
    pub fn kvm_untried(device: &Path) -> Self {
        let shown = device.display();
        let evidence = match File::options().read(true).write(true).open(device) {
            Ok(_) => format!("{shown} opens; no machine could be tried with it"),
            Err(error) => format!("cannot open {shown}: {error}"),
        };
        Self { name: Accelerator::Kvm, usable: false, evidence }
    }
}

const KVM: &str = "/dev/kvm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_file_alone_makes_nothing_usable() {
        let opens = AcceleratorReport::kvm_untried(Path::new("/dev/null"));
        assert!(!opens.usable && opens.evidence.starts_with("/dev/null opens"), "{opens:?}");
        let absent = AcceleratorReport::kvm_untried(Path::new("/nonexistent"));
        assert!(
            !absent.usable && absent.evidence.starts_with("cannot open /nonexistent: No such"),
            "{absent:?}"
        );
    }
}
