//! Reads the Raspberry Pi's `config.txt` as its firmware does: which settings count on this model.
//!
//! Pure: text in, settings out. Called by the boot stage only. The rules are those of Raspberry Pi's
//! documentation, <https://www.raspberrypi.com/documentation/computers/config_txt.html>; its chapters are named
//! where a rule is taken from them. Nothing to clean up.

/// The settings that decide what is booted, as they stand at the end of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigTxt {
    /// `kernel`: the kernel's file name, if one is given.
    pub kernel: Option<String>,
    /// `initramfs` or `ramfsfile`: the files that are joined into the initial RAM disk.
    pub initramfs: Vec<String>,
    /// `auto_initramfs`: an initial RAM disk is looked for beside the kernel.
    pub auto_initramfs: bool,
    /// `device_tree`: the device tree's file name; an empty one means that none is loaded.
    pub device_tree: Option<String>,
    /// `cmdline`: the file with the kernel's command line, if another than `cmdline.txt`.
    pub cmdline: Option<String>,
    /// `arm_64bit`, if it is set.
    pub arm_64bit: Option<bool>,
    /// `os_prefix`, if it is set.
    pub os_prefix: Option<String>,
    /// `upstream_kernel`: names of the upstream kernel are preferred.
    pub upstream_kernel: bool,
    /// `enable_uart`, if it is set.
    pub enable_uart: Option<bool>,
    /// `boot_partition`, which only `autoboot.txt` has.
    pub boot_partition: Option<u32>,
    /// Every `dtoverlay` and `dtparam`, as written.
    pub overlays: Vec<String>,
    /// Settings that would change what is booted, and that nobody plays, as written.
    pub not_played: Vec<String>,
    /// What else a reader should know, in sentences.
    pub notes: Vec<String>,
}

/// The answers that a model gives to conditional filters.
#[derive(Debug, Clone, Copy)]
pub struct Filters {
    /// The model filters that it sees, in lower case, such as `pi3`.
    pub models: &'static [&'static str],
    /// Its type in the revision code, which `[board-type=0x08]` asks for.
    pub board_type: u8,
}

impl ConfigTxt {
    /// Reads `text`. `include` gives the content of another file of the boot partition, or `None`.
    pub fn read(text: &str, filters: Filters, mut include: impl FnMut(&str) -> Option<String>) -> Self {
        let mut reader = Reader {
            filters,
            config: Self::default(),
            section: Section::default(),
            includes_left: MAX_INCLUDES,
        };
        reader.read(text, &mut include);
        reader.config
    }
}

/// "There is a 98-character line length limit (previously 78) for entries - any characters past this limit will
/// be ignored" (What is config.txt, File Format).
const MAX_LINE_CHARS: usize = 98;

/// More includes in all are taken for a ring. The documentation names no limit.
const MAX_INCLUDES: u8 = 32;

/// Enough for a person; a file made of odd filters shall not fill the memory.
const MAX_NOTES: usize = 32;

struct Reader {
    filters: Filters,
    config: ConfigTxt,
    section: Section,
    includes_left: u8,
}

/// Filters of one type replace each other, those of different types combine, and `[all]` resets them
/// (Combining Conditional Filters). `true` means that settings pass.
struct Section {
    model: bool,
    other: bool,
}

impl Default for Section {
    fn default() -> Self {
        Self { model: true, other: true }
    }
}

impl Reader {
    fn read(&mut self, text: &str, include: &mut impl FnMut(&str) -> Option<String>) {
        for line in text.lines() {
            let line: String = line.trim().chars().take(MAX_LINE_CHARS).collect();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(filter) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                self.enter(&filter.trim().to_ascii_lowercase());
            } else if self.section.model && self.section.other {
                let (key, value) = split(&line);
                if key == "include" {
                    self.include(value, include);
                } else {
                    self.set(key, value, &line);
                }
            }
        }
    }

    /// "Causes the content of the specified file to be inserted into the current file" (include).
    fn include(&mut self, name: &str, include: &mut impl FnMut(&str) -> Option<String>) {
        let Some(left) = self.includes_left.checked_sub(1) else {
            return self
                .note(format!("`include {name}` is not followed: there were {MAX_INCLUDES} before it"));
        };
        self.includes_left = left;
        match include(name) {
            Some(text) => self.read(&text, include),
            None => self.note(format!("`{name}`, which is to be included, is not there")),
        }
    }

    fn note(&mut self, note: String) {
        let notes = &mut self.config.notes;
        if notes.len() < MAX_NOTES && !notes.contains(&note) {
            notes.push(note);
        }
    }

    fn enter(&mut self, filter: &str) {
        if filter == "all" {
            self.section = Section::default();
        } else if filter == "none" || is_model(filter) {
            self.section.model = self.filters.models.contains(&filter);
        } else if let Some(kind) = filter.strip_prefix("board-type=") {
            self.section.model = number(kind) == Some(self.filters.board_type.into());
        } else if filter.starts_with("hdmi:") {
            // It tells to which port HDMI settings belong, and none of those is read here.
        } else {
            // Screens, serial numbers and pins are those of no real board here, and a reboot with the tryboot
            // flag is not played: such a filter never passes.
            self.section.other = false;
            self.note(format!("the filter `[{filter}]` is taken as not fulfilled"));
        }
    }

    fn set(&mut self, key: &str, value: &str, line: &str) {
        let config = &mut self.config;
        match key {
            "kernel" => config.kernel = Some(value.to_owned()),
            "initramfs" | "ramfsfile" => {
                // "`followkernel` (or `0`) to place it in memory after the kernel image"; newer firmware takes
                // several files, separated by commas (initramfs). The address is QEMU's to choose.
                let files = value.split_whitespace().next().unwrap_or_default();
                config.initramfs =
                    files.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            }
            "auto_initramfs" => config.auto_initramfs = is_set(value),
            "device_tree" => config.device_tree = Some(value.to_owned()),
            "cmdline" => config.cmdline = Some(value.to_owned()),
            "arm_64bit" => config.arm_64bit = Some(is_set(value)),
            // The older spelling of arm_64bit=1.
            "arm_control" => config.arm_64bit = Some(number(value).is_some_and(|bits| bits & 0x200 != 0)),
            "os_prefix" => config.os_prefix = Some(value.to_owned()),
            "upstream_kernel" => config.upstream_kernel = is_set(value),
            "enable_uart" => config.enable_uart = Some(is_set(value)),
            "boot_partition" => config.boot_partition = value.parse().ok(),
            "dtoverlay" | "dtparam" | "device_tree_overlay" | "device_tree_param" => {
                config.overlays.push(line.to_owned());
            }
            "armstub" | "kernel_address" | "kernel_old" | "boot_ramdisk" | "device_tree_address" => {
                config.not_played.push(line.to_owned());
            }
            _ => {}
        }
    }
}

/// The model filters of the documentation, and those of the models that came after its table.
fn is_model(filter: &str) -> bool {
    let rest = filter.strip_prefix("pi").or_else(|| filter.strip_prefix("cm"));
    rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// A line is `key=value`; `initramfs` and `include` have a blank instead, and the firmware takes either for each.
fn split(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    (key, rest.strip_prefix('=').unwrap_or(rest).trim())
}

fn is_set(value: &str) -> bool {
    number(value).is_some_and(|value| value != 0)
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PI3: Filters = Filters { models: &["pi3"], board_type: 0x08 };

    fn read(text: &str) -> ConfigTxt {
        ConfigTxt::read(text, PI3, |_| None)
    }

    #[test]
    fn only_what_the_model_sees_counts() {
        let seen = |text: &str| read(text).kernel;
        let mine = Some("mine".to_owned());
        assert_eq!(seen("[pi4]\nkernel=other\n[pi3]\nkernel=mine\n[pi02]\nkernel=third"), mine);
        assert_eq!(seen("kernel=mine\n[none]\nkernel=other"), mine);
        assert_eq!(seen("[pi4]\nkernel=other\n[all]\nkernel=mine"), mine);
        assert_eq!(seen("[PI3]\nkernel=mine\n[cm4]\nkernel=other"), mine);
        assert_eq!(seen("[board-type=0x08]\nkernel=mine\n[board-type=0x11]\nkernel=other"), mine);
        assert_eq!(seen("[HDMI:1]\nkernel=mine"), mine);
        assert_eq!(seen("[gpio4=1]\n[pi3]\nkernel=other"), None, "filters of different types combine");
        assert_eq!(seen("[0x12345678]\nkernel=other\n[all]\nkernel=mine"), mine);
    }

    #[test]
    fn both_spellings_comments_and_the_last_word_are_understood() {
        let config =
            read("#kernel=a\r\nkernel=b\r\nkernel c\r\n\r\ninitramfs x,y followkernel\r\ncmdline = z");
        assert_eq!(config.kernel.as_deref(), Some("c"));
        assert_eq!(config.initramfs, ["x", "y"]);
        assert_eq!(config.cmdline.as_deref(), Some("z"));
        assert_eq!(read("initramfs=one.gz 0x00800000").initramfs, ["one.gz"]);
        assert_eq!(read("device_tree=").device_tree.as_deref(), Some(""));
        assert_eq!(read("arm_64bit=1").arm_64bit, Some(true));
        assert_eq!(read("arm_control=0x200").arm_64bit, Some(true));
        assert_eq!(read(&format!("kernel={}", "k".repeat(200))).kernel.map(|name| name.len()), Some(91));
    }

    #[test]
    fn included_files_count_where_they_are_included() {
        let include = |name: &str| (name == "extra.txt").then(|| "kernel=extra\n[pi4]".to_owned());
        let config =
            ConfigTxt::read("include extra.txt\nkernel=other\n[all]\ninclude none.txt", PI3, include);
        assert_eq!(config.kernel.as_deref(), Some("extra"));
        assert_eq!(config.notes, ["`none.txt`, which is to be included, is not there"]);
        let ring = ConfigTxt::read("include ring.txt", PI3, |_| Some("include ring.txt\n".repeat(1000)));
        assert_eq!(ring.notes.len(), 1);
    }

    #[test]
    fn what_nobody_plays_is_remembered() {
        let config = read("dtparam=audio=on\ndtoverlay=vc4-kms-v3d\narmstub=mine.bin\ndisable_splash=1");
        assert_eq!(config.overlays, ["dtparam=audio=on", "dtoverlay=vc4-kms-v3d"]);
        assert_eq!(config.not_played, ["armstub=mine.bin"]);
    }
}
