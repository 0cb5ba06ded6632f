//! What speeds a machine up on this host, and how we know.
//!
//! That `/dev/kvm` opens, and that QEMU says `query-kvm`, proves nothing: on nested hosts both hold and every
//! start fails. So an accelerator counts as usable only with the evidence of a start.

use std::fs::File;
use std::path::Path;

use serde::Serialize;

/// One accelerator of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceleratorReport {
    /// QEMU's name of it: `tcg` or `kvm`.
    pub name: String,
    /// Whether machines may be started with it.
    pub usable: bool,
    /// What was seen, in a sentence.
    pub evidence: String,
}

impl AcceleratorReport {
    /// TCG needs nothing of the host.
    pub fn tcg() -> Self {
        let evidence = "it needs nothing of the host".to_owned();
        Self { name: "tcg".to_owned(), usable: true, evidence }
    }

    /// What KVM's device file says, which is never enough to be usable.
    pub fn kvm_unproven(device: &Path) -> Self {
        let shown = device.display();
        let evidence = match File::options().read(true).write(true).open(device) {
            Ok(_) => format!("{shown} opens; whether a machine starts with it was not tried"),
            Err(error) => format!("cannot open {shown}: {error}"),
        };
        Self { name: "kvm".to_owned(), usable: false, evidence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_file_alone_makes_nothing_usable() {
        let opens = AcceleratorReport::kvm_unproven(Path::new("/dev/null"));
        assert!(!opens.usable && opens.evidence.starts_with("/dev/null opens"), "{opens:?}");
        let absent = AcceleratorReport::kvm_unproven(Path::new("/nonexistent"));
        assert!(
            !absent.usable && absent.evidence.starts_with("cannot open /nonexistent: No such"),
            "{absent:?}"
        );
    }
}
