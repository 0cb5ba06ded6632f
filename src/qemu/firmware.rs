//! Firmware for machines: UEFI through QEMU's firmware descriptors, and U-Boot where packages put it.
//!
//! Called when a machine is about to start, and by `standin doctor`. Descriptors are specified in QEMU's
//! docs/interop/firmware.json: JSON files in a few folders, of which the first that fits is taken. Choosing is
//! pure and apart from reading. Nothing to clean up: firmware is only read, variables are copied by the caller.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::package::Package;
use crate::board::Arch;

/// UEFI firmware that fits a machine, and whose files are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UefiFirmware {
    /// The image of the first flash chip, read only.
    pub code: PathBuf,
    /// What the second flash chip holds when it is new; each machine writes to its own copy.
    pub vars_template: PathBuf,
    /// The format of both.
    pub format: FlashFormat,
    /// The descriptor that named them.
    pub descriptor: PathBuf,
}

/// The formats that flash images are packaged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlashFormat {
    /// The bytes of the chip.
    Raw,
    /// QEMU's own format, which Fedora uses.
    Qcow2,
}

impl FlashFormat {
    /// QEMU's name of it.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Why a machine has no firmware. All are found before anything is started.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// No descriptor fits.
    #[error("no UEFI firmware for {arch} on {machine}{considered}", arch = arch.qemu_name())]
    NoUefi {
        /// The architecture.
        arch: Arch,
        /// The machine type.
        machine: String,
        /// Those that fit but for their files, each with its reason; empty, or begins with `: `.
        considered: String,
    },
    /// A descriptor fits, but the flash chips of the machine have another size than the images.
    #[error("unusable firmware {path}: {machine} takes flash images of {expected} bytes, found {found}")]
    WrongSize {
        /// The image.
        path: PathBuf,
        /// The machine type.
        machine: String,
        /// The chip's size.
        expected: u64,
        /// The image's size.
        found: u64,
    },
    /// A folder or file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// U-Boot is not where packages put it.
    #[error("no U-Boot for {arch} on QEMU's virt machine", arch = arch.qemu_name())]
    NoUBoot {
        /// The architecture.
        arch: Arch,
    },
}

impl FirmwareError {
    /// What would help.
    pub fn hint(&self) -> Option<String> {
        self.package().map(Package::hint)
    }

    /// The package that would help.
    pub fn package(&self) -> Option<Package> {
        match self {
            Self::NoUefi { arch, .. } => Some(Package::Uefi(*arch)),
            Self::NoUBoot { .. } => Some(Package::UBoot),
            Self::WrongSize { .. } | Self::Read { .. } => None,
        }
    }
}

/// Finds UEFI firmware without secure boot for `machine`, a machine type or an alias such as `q35`, in the
/// descriptors of `folders`.
pub fn find_uefi(folders: &[PathBuf], arch: Arch, machine: &str) -> Result<UefiFirmware, FirmwareError> {
    let descriptors = read_descriptors(folders)?;
    let mut considered = String::new();
    for descriptor in fitting(&descriptors, arch, machine) {
        match descriptor.firmware() {
            Ok(firmware) => return check_sizes(firmware, arch, machine),
            Err(reason) => considered += &format!(": {}: {reason}", descriptor.path.display()),
        }
    }
    Err(FirmwareError::NoUefi { arch, machine: machine.to_owned(), considered })
}

/// The folders of descriptors, the most important first; `user` is `$XDG_CONFIG_HOME`, or what stands for it.
pub fn descriptor_folders(user: Option<&Path>) -> Vec<PathBuf> {
    let user = user.map(|config| config.join("qemu/firmware"));
    let system = ["/etc/qemu/firmware", "/usr/share/qemu/firmware", "/usr/local/share/qemu/firmware"];
    user.into_iter().chain(system.map(PathBuf::from)).collect()
}

/// Finds U-Boot for QEMU's `virt` machine, which no descriptor tells of, below `folders`.
pub fn find_u_boot(folders: &[PathBuf], arch: Arch) -> Result<PathBuf, FirmwareError> {
    let build = match arch {
        Arch::Aarch64 => Some("qemu_arm64"),
        Arch::Armv7 => Some("qemu_arm"),
        Arch::X86_64 | Arch::Riscv64 => None,
    };
    let mut places = build.into_iter().flat_map(|build| folders.iter().map(move |folder| folder.join(build)));
    places
        .find_map(|place| Some(place.join("u-boot.bin")).filter(|file| file.is_file()))
        .ok_or(FirmwareError::NoUBoot { arch })
}

/// Where Debian's u-boot-qemu and Fedora's uboot-images-armv8 put their builds.
pub fn u_boot_folders() -> Vec<PathBuf> {
    ["/usr/lib/u-boot", "/usr/share/uboot"].map(PathBuf::from).to_vec()
}

/// One descriptor, as far as it is used here. The format grows: unknown keys and values are no errors.
#[derive(Debug, Clone)]
struct Descriptor {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Content {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    executable: Option<Image>,
    nvram_template: Option<Image>,
}

#[derive(Debug, Clone, Deserialize)]
struct Image {
    filename: PathBuf,
    format: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// Reads the `*.json` of all folders; a name counts where it is seen first, and the order is by name. A folder
/// that is not there is no error, as most hosts have one of them; neither is a file that is no descriptor.
fn read_descriptors(folders: &[PathBuf]) -> Result<Vec<Descriptor>, FirmwareError> {
    let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in folders {
        let cannot_read = |source| FirmwareError::Read { path: folder.clone(), source };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(cannot_read(source)),
        };
        for entry in entries {
            let path = entry.map_err(cannot_read)?.path();
            if let (Some("json"), Some(name)) =
                (path.extension().and_then(|ext| ext.to_str()), path.file_name())
            {
                by_name.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    let mut descriptors = Vec::new();
    for path in by_name.into_values() {
        let text = fs::read(&path).map_err(|source| FirmwareError::Read { path: path.clone(), source })?;
        if text.is_empty() {
            continue; // An empty file masks those of the same name in lower folders.
        }
        match serde_json::from_slice(&text) {
            Ok(content) => descriptors.push(Descriptor { path, content }),
            Err(error) => tracing::warn!(path = %path.display(), %error, "is no firmware descriptor"),
        }
    }
    Ok(descriptors)
}

/// Those of `descriptors` that fit by what they say, in their order.
fn fitting<'a>(
    descriptors: &'a [Descriptor],
    arch: Arch,
    machine: &'a str,
) -> impl Iterator<Item = &'a Descriptor> {
    // Secure boot refuses what most boards' images hold, and SMM needs another machine.
    const UNWANTED: [&str; 3] = ["secure-boot", "enrolled-keys", "requires-smm"];
    descriptors.iter().filter(move |Descriptor { content, .. }| {
        let mut machines = content
            .targets
            .iter()
            .filter(|target| target.architecture == arch.qemu_name())
            .flat_map(|target| &target.machines);
        content.interface_types.iter().any(|interface| interface == "uefi")
            && content.mapping.device == "flash"
            && !content.features.iter().any(|feature| UNWANTED.contains(&feature.as_str()))
            && machines.any(|pattern| names(pattern, machine))
    })
}

impl Descriptor {
    /// Its files, if they can be used.
    fn firmware(&self) -> Result<UefiFirmware, String> {
        let Mapping { executable: Some(code), nvram_template: Some(vars), .. } = &self.content.mapping else {
            return Err("it has no template for variables".to_owned());
        };
        let format = match (code.format.as_str(), vars.format.as_str()) {
            ("raw", "raw") => FlashFormat::Raw,
            ("qcow2", "qcow2") => FlashFormat::Qcow2,
            (code, vars) => return Err(format!("it is in the formats `{code}` and `{vars}`")),
        };
        for image in [code, vars] {
            File::open(&image.filename)
                .map_err(|error| format!("cannot read {}: {error}", image.filename.display()))?;
        }
        Ok(UefiFirmware {
            code: code.filename.clone(),
            vars_template: vars.filename.clone(),
            format,
            descriptor: self.path.clone(),
        })
    }
}

/// The size of each flash chip of `virt`; QEMU refuses images of another size (VIRT_FLASH in hw/arm/virt.c and
/// hw/riscv/virt.c, halved). The x86 machines fit their chips to the images.
fn flash_bytes(arch: Arch, machine: &str) -> Option<u64> {
    let virt = machine == "virt" || machine.starts_with("virt-");
    match arch {
        Arch::Aarch64 | Arch::Armv7 if virt => Some(64 << 20),
        Arch::Riscv64 if virt => Some(32 << 20),
        _ => None,
    }
}

fn check_sizes(firmware: UefiFirmware, arch: Arch, machine: &str) -> Result<UefiFirmware, FirmwareError> {
    let Some(expected) = flash_bytes(arch, machine) else { return Ok(firmware) };
    for path in [&firmware.code, &firmware.vars_template] {
        let found = flash_size(path, firmware.format)
            .map_err(|source| FirmwareError::Read { path: path.clone(), source })?;
        if found != expected {
            let (path, machine) = (path.clone(), machine.to_owned());
            return Err(FirmwareError::WrongSize { path, machine, expected, found });
        }
    }
    Ok(firmware)
}

/// What the guest sees as the chip's size.
fn flash_size(path: &Path, format: FlashFormat) -> io::Result<u64> {
    match format {
        FlashFormat::Raw => Ok(fs::metadata(path)?.len()),
        FlashFormat::Qcow2 => {
            // The virtual size is a big-endian number at byte 24 (QEMU's docs/interop/qcow2.txt).
            let mut header = [0; 32];
            File::open(path)?.read_exact(&mut header)?;
            Ok(u64::from_be_bytes(header[24..].try_into().expect("8 bytes are an array of 8 bytes")))
        }
    }
}

/// Whether a descriptor's pattern names `machine`. Patterns are for full names, such as `pc-q35-7.2`; an alias
/// stands for the newest of its family, which a pattern for a whole family names as well.
fn names(pattern: &str, machine: &str) -> bool {
    let family = match machine {
        "q35" => "pc-q35-",
        "pc" => "pc-i440fx-",
        "virt" => "virt-",
        _ => machine,
    };
    glob(pattern.as_bytes(), machine.as_bytes()) || glob(pattern.as_bytes(), family.as_bytes())
}

/// `*` stands for any text, `?` for any letter.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((letter, rest)), Some((other, text))) => letter == other && glob(rest, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A host with folders of descriptors, and firmware files.
    struct Host {
        root: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap() }
        }

        fn folders(&self) -> Vec<PathBuf> {
            ["user", "system"].map(|name| self.root.path().join(name)).to_vec()
        }

        fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        }

        fn descriptor(&self, name: &str, code: &str, features: &[&str]) {
            let image = |file: &str| json!({ "filename": self.root.path().join(file), "format": "raw" });
            let content = json!({
                "interface-types": ["uefi"],
                "mapping": { "device": "flash", "executable": image(code), "nvram-template": image("vars") },
                "targets": [
                    { "architecture": "x86_64", "machines": ["pc-q35-*"] },
                    { "architecture": "aarch64", "machines": ["virt-*"] },
                ],
                "features": features,
            });
            self.file(name, content.to_string());
        }

        fn found(&self, machine: &str) -> Result<String, FirmwareError> {
            let firmware = find_uefi(&self.folders(), Arch::X86_64, machine)?;
            Ok(firmware.descriptor.strip_prefix(&self.root).unwrap().display().to_string())
        }
    }

    #[test]
    fn the_first_that_fits_is_taken_by_name_and_a_higher_folder_masks() {
        let host = Host::new();
        host.file("code", "");
        host.file("vars", "");
        host.descriptor("system/50-secure.json", "code", &["secure-boot", "requires-smm"]);
        host.descriptor("system/60-plain.json", "code", &["verbose-dynamic"]);
        host.descriptor("system/70-other.json", "code", &[]);
        host.file("system/10-broken.json", "{");
        assert_eq!(host.found("q35").unwrap(), "system/60-plain.json");
        assert_eq!(host.found("pc-q35-7.2").unwrap(), "system/60-plain.json");
        assert!(matches!(host.found("pc"), Err(FirmwareError::NoUefi { .. })));
        host.descriptor("user/60-plain.json", "code", &[]);
        assert_eq!(host.found("q35").unwrap(), "user/60-plain.json");
        host.file("user/60-plain.json", "");
        assert_eq!(host.found("q35").unwrap(), "system/70-other.json");
    }

    #[test]
    fn firmware_whose_files_are_gone_is_passed_over_and_named_when_nothing_is_left() {
        let host = Host::new();
        host.file("vars", "");
        host.descriptor("system/60-plain.json", "gone", &[]);
        let error = host.found("q35").unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("no UEFI firmware for x86_64 on q35: "), "{message}");
        assert!(message.contains("60-plain.json: cannot read "), "{message}");
        assert_eq!(error.hint().unwrap(), "install `ovmf` (Debian, Ubuntu) or `edk2-ovmf` (Fedora)");
        host.file("code", "");
        host.descriptor("system/70-whole.json", "code", &[]);
        assert_eq!(host.found("q35").unwrap(), "system/70-whole.json");
    }

    #[test]
    fn flash_images_of_the_wrong_size_are_refused_where_the_machine_would() {
        let host = Host::new();
        let code = host.file("code", "too small");
        let vars = host.file("vars", "");
        host.descriptor("system/60-plain.json", "code", &[]);
        let found = || find_uefi(&host.folders(), Arch::Aarch64, "virt");
        let error = found().unwrap_err().to_string();
        assert!(error.ends_with("virt takes flash images of 67108864 bytes, found 9"), "{error}");
        for path in [&code, &vars] {
            File::options().write(true).open(path).unwrap().set_len(64 << 20).unwrap();
        }
        assert_eq!(found().unwrap().code, code);
    }

    #[test]
    fn this_host_has_uefi_for_a_pc_and_an_arm_server() {
        for (arch, machine) in [(Arch::X86_64, "q35"), (Arch::Aarch64, "virt")] {
            let found = find_uefi(&descriptor_folders(None), arch, machine);
            found.unwrap_or_else(|error| panic!("{error}; {}", error.hint().unwrap_or_default()));
        }
    }

    #[test]
    fn u_boot_is_found_where_packages_put_it() {
        let host = Host::new();
        let file = host.file("system/qemu_arm64/u-boot.bin", "");
        assert_eq!(find_u_boot(&host.folders(), Arch::Aarch64).unwrap(), file);
        let error = find_u_boot(&host.folders(), Arch::Armv7).unwrap_err();
        assert_eq!(error.to_string(), "no U-Boot for arm on QEMU's virt machine");
        assert!(error.hint().unwrap().contains("u-boot-qemu"));
    }

    #[test]
    fn patterns_name_machines_and_their_aliases() {
        assert!(names("pc-q35-*", "q35") && names("pc-q35-*", "pc-q35-7.2") && names("virt-*", "virt"));
        assert!(names("virt", "virt") && names("*", "q35") && names("pc-q35-?.2", "pc-q35-7.2"));
        assert!(!names("pc-q35-*", "pc") && !names("virt-*", "virtual") && !names("pc-q35-7.*", "q35"));
    }
}
