//! Which files of the boot partition the firmware loads.

use std::io::{Read, Seek};

use super::super::config_txt::ConfigTxt;
use super::Model;
use crate::io::fat::{FatError, FatVolume};

/// The files that are loaded, with their prefix.
pub(super) struct Names {
    pub(super) kernel: String,
    pub(super) initramfs: Vec<String>,
    pub(super) device_tree: Option<String>,
    pub(super) command_line: String,
    /// Why the real board may start this, and the stand-in cannot.
    pub(super) not_played: Option<String>,
    pub(super) notes: Vec<String>,
}

impl Names {
    pub(super) fn choose<T: Read + Seek>(
        model: Model,
        config: &ConfigTxt,
        volume: &FatVolume<T>,
    ) -> Result<Self, FatError> {
        let mut notes = Vec::new();
        let (kernel, is_64bit) = choose_kernel(model, config, volume, &mut notes)?;
        let (own, upstream) = model.device_trees();
        let prefixed = |prefix: &str, name: &str| match name.strip_prefix('/') {
            // "Any user-specified OS file can bypass all prefixes by using an absolute path" (os_prefix).
            Some(absolute) => absolute.to_owned(),
            None => format!("{prefix}{name}"),
        };
        let device_tree_at = |prefix: &str| -> Result<Option<String>, FatError> {
            let candidates = match &config.device_tree {
                Some(name) => vec![name.as_str()],
                None if config.upstream_kernel => vec![upstream, own],
                None => vec![own],
            };
            for name in candidates.into_iter().filter(|name| !name.is_empty()) {
                if volume.has_file(&prefixed(prefix, name))? {
                    return Ok(Some(prefixed(prefix, name)));
                }
            }
            Ok(None)
        };

        // "unless the expected kernel and .dtb can be found at the new location/name, the prefix is ignored"
        // (os_prefix); "the firmware sets os_prefix to `upstream/`, unless it has been explicitly set"
        // (upstream_kernel).
        let upstream_prefix = config.upstream_kernel.then_some("upstream/");
        let asked = config.os_prefix.as_deref().or(upstream_prefix).unwrap_or_default();
        let no_device_tree = config.device_tree.as_deref() == Some("");
        let viable = volume.has_file(&prefixed(asked, &kernel))?
            && (no_device_tree || device_tree_at(asked)?.is_some());
        let prefix = if viable { asked } else { "" };
        if prefix != asked && config.os_prefix.is_some() {
            notes.push(format!("os_prefix `{asked}` is ignored: its kernel or device tree is not there"));
        }

        let device_tree = device_tree_at(prefix)?;
        if device_tree.is_none() && !no_device_tree {
            let name = config.device_tree.as_deref().unwrap_or(own);
            notes.push(format!(
                "the device tree `{}` is not there: the kernel gets none",
                prefixed(prefix, name)
            ));
        }
        let automatic = config.auto_initramfs.then(|| automatic_initramfs(&kernel)).flatten();
        let mut initramfs: Vec<_> = config.initramfs.iter().map(|name| prefixed(prefix, name)).collect();
        if let (true, Some(name)) = (initramfs.is_empty(), automatic) {
            let name = prefixed(prefix, &name);
            // "Automatically load initramfs files, if found" (Raspberry Pi OS's own config.txt).
            initramfs.extend(volume.has_file(&name)?.then_some(name));
        }
        let on_card = prefixed(prefix, &kernel);
        // A card without that kernel boots nowhere, which is for the caller to say.
        let asks_for_32bit = !is_64bit && model != Model::Pi2 && volume.has_file(&on_card)?;
        let not_played = asks_for_32bit.then(|| {
            format!(
                "it asks for the 32-bit kernel `{kernel}` (arm_64bit is not set), but its machine has 64 bits"
            )
        });
        Ok(Self {
            kernel: on_card,
            initramfs,
            device_tree,
            command_line: prefixed(prefix, config.cmdline.as_deref().unwrap_or("cmdline.txt")),
            not_played,
            notes,
        })
    }
}

/// The kernel's name without prefix, and whether it is started in 64-bit mode (`kernel`, `arm_64bit`).
fn choose_kernel<T: Read + Seek>(
    model: Model,
    config: &ConfigTxt,
    volume: &FatVolume<T>,
    notes: &mut Vec<String>,
) -> Result<(String, bool), FatError> {
    let known = |name: &str| match name.rsplit('/').next() {
        Some("kernel8.img") => Some(true),
        Some("kernel.img" | "kernel7.img" | "kernel7l.img") => Some(false),
        _ => None,
    };
    // "if the name given in an explicit `kernel` option matches one of the known kernels then `arm_64bit` will
    // be set accordingly"; else it "defaults to 1 on Pi 4s, and 0 on all other platforms".
    let by_name = config.kernel.as_deref().and_then(known);
    let is_64bit = by_name.or(config.arm_64bit).unwrap_or(model == Model::Pi4) && model != Model::Pi2;
    if let Some(kernel) = &config.kernel {
        return Ok((kernel.clone(), is_64bit));
    }
    if is_64bit {
        return Ok(("kernel8.img".to_owned(), true));
    }
    // Not documented, but what bare-metal tutorials for the Raspberry Pi 3 rest on: alone on the card,
    // kernel8.img is started in 64-bit mode without any config.txt.
    let prefix = config.os_prefix.as_deref().unwrap_or_default();
    let alone = model == Model::Pi3
        && config.arm_64bit.is_none()
        && !volume.has_file(&format!("{prefix}{}", model.kernel_32bit()))?
        && volume.has_file(&format!("{prefix}kernel8.img"))?;
    if alone {
        notes.push("arm_64bit is not set; kernel8.img is started because there is no kernel7.img".to_owned());
        return Ok(("kernel8.img".to_owned(), true));
    }
    Ok((model.kernel_32bit().to_owned(), false))
}

/// It is looked for by the rules of the kernel's name (auto_initramfs): `initramfs8` for `kernel8.img`.
fn automatic_initramfs(kernel: &str) -> Option<String> {
    let (folder, file) = kernel.rsplit_once('/').map_or(("", kernel), |(folder, file)| (folder, file));
    let variant = file.strip_prefix("kernel")?.split('.').next()?;
    let name = format!("initramfs{variant}");
    Some(if folder.is_empty() { name } else { format!("{folder}/{name}") })
}
