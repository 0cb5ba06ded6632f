//! The packages that bring QEMU and what it needs, by distribution: what a hint or `standin doctor` names.
//!
//! Pure. Names as of Debian 12 and 13, Ubuntu 22.04 and later, Fedora 40 and later.

use crate::board::Arch;

/// Something that a package brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Package {
    /// `qemu-system-*` of one architecture.
    Qemu(Arch),
    /// UEFI for QEMU of one architecture.
    Uefi(Arch),
    /// U-Boot for QEMU's `virt` machines.
    UBoot,
    /// The software TPM.
    Swtpm,
}

/// What kind of distribution the host runs, as far as its package manager goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distribution {
    /// Debian, Ubuntu and their kin, with the release's code name, such as `bookworm`.
    Debian {
        /// `VERSION_CODENAME` of os-release.
        codename: Option<String>,
    },
    /// Fedora and its kin.
    Fedora,
    /// Any other: packages are named, commands are not.
    Other,
}

impl Distribution {
    /// Reads `/etc/os-release`; see os-release(5).
    pub fn parse(os_release: &str) -> Self {
        let value = |key: &str| {
            let line = os_release.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.map(|text| text.trim_matches(['"', '\'']).to_owned())
        };
        let kin = format!("{} {}", value("ID").unwrap_or_default(), value("ID_LIKE").unwrap_or_default());
        let is = |name: &str| kin.split_whitespace().any(|word| word == name);
        if is("debian") || is("ubuntu") {
            Self::Debian { codename: value("VERSION_CODENAME") }
        } else if is("fedora") {
            Self::Fedora
        } else {
            Self::Other
        }
    }

    /// The command that installs `package`, if this distribution has it and we know its name.
    pub fn install_command(&self, package: Package) -> Option<String> {
        match self {
            Self::Debian { .. } => Some(format!("apt-get install {}", package.debian_name())),
            Self::Fedora => package.fedora_name().map(|name| format!("dnf install {name}")),
            Self::Other => None,
        }
    }

    /// The command that brings a newer QEMU than the release has, where there is one.
    pub fn newer_qemu_command(&self, arch: Arch) -> Option<String> {
        match self {
            // Backports of Debian 12 have QEMU 10.0; they must be among the sources.
            Self::Debian { codename: Some(codename) } if codename == "bookworm" => {
                let name = Package::Qemu(arch).debian_name();
                Some(format!("apt-get install -t bookworm-backports {name}"))
            }
            _ => None,
        }
    }
}

impl Package {
    /// Its name in Debian and Ubuntu.
    pub fn debian_name(self) -> &'static str {
        match self {
            Self::Qemu(Arch::X86_64) => "qemu-system-x86",
            Self::Qemu(Arch::Aarch64 | Arch::Armv7) => "qemu-system-arm",
            Self::Qemu(Arch::Riscv64) => "qemu-system-misc",
            Self::Uefi(Arch::X86_64) => "ovmf",
            Self::Uefi(Arch::Aarch64) => "qemu-efi-aarch64",
            Self::Uefi(Arch::Armv7) => "qemu-efi-arm",
            Self::Uefi(Arch::Riscv64) => "qemu-efi-riscv64",
            Self::UBoot => "u-boot-qemu",
            Self::Swtpm => "swtpm",
        }
    }

    /// Its name in Fedora.
    pub fn fedora_name(self) -> Option<&'static str> {
        Some(match self {
            Self::Qemu(Arch::X86_64) => "qemu-system-x86",
            Self::Qemu(Arch::Aarch64) => "qemu-system-aarch64",
            Self::Qemu(Arch::Armv7) => "qemu-system-arm",
            Self::Qemu(Arch::Riscv64) => "qemu-system-riscv",
            Self::Uefi(Arch::X86_64) => "edk2-ovmf",
            Self::Uefi(Arch::Aarch64) => "edk2-aarch64",
            Self::Uefi(Arch::Riscv64) => "edk2-riscv64",
            Self::Uefi(Arch::Armv7) => return None,
            Self::UBoot => "uboot-images-armv8",
            Self::Swtpm => "swtpm",
        })
    }

    /// Advice for a person whose distribution we have not looked at.
    pub fn hint(self) -> String {
        let debian = self.debian_name();
        match self.fedora_name() {
            Some(fedora) if fedora != debian => {
                format!("install `{debian}` (Debian, Ubuntu) or `{fedora}` (Fedora)")
            }
            _ => format!("install `{debian}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_known_by_their_own_name_or_their_kin() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        let bookworm = Distribution::parse(debian);
        assert_eq!(bookworm, Distribution::Debian { codename: Some("bookworm".to_owned()) });
        let mint = Distribution::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n");
        assert_eq!(mint, Distribution::Debian { codename: None });
        assert_eq!(Distribution::parse("ID=\"rhel\"\nID_LIKE=\"fedora\""), Distribution::Fedora);
        assert_eq!(Distribution::parse("ID=nixos"), Distribution::Other);
        assert_eq!(
            bookworm.install_command(Package::Uefi(Arch::X86_64)).as_deref(),
            Some("apt-get install ovmf")
        );
        assert_eq!(Distribution::Other.install_command(Package::Swtpm), None);
    }
}
