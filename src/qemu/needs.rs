//! What a board needs of the QEMU that is to play it, held against what that QEMU has.
//!
//! Pure. The needs are read out of the very argument vector that starts the board, so they cannot differ from it.

use std::path::PathBuf;

use super::arguments::{Accelerator, Disk, FirmwareFiles, Launch, Reach, arguments};
use super::binary::{Inventory, Version};
use crate::board::Board;

/// Something that a board needs, and a QEMU has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// A machine type.
    Machine {
        /// Its name.
        name: String,
        /// The first version that has it, as far as we know.
        since: Option<Version>,
    },
    /// A device.
    Device(String),
    /// A kind of network back end.
    Netdev(String),
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machine { name, since: Some(since) } => {
                write!(f, "machine type `{name}`, which QEMU {since} brought")
            }
            Self::Machine { name, since: None } => write!(f, "machine type `{name}`"),
            Self::Device(name) => write!(f, "device `{name}`"),
            Self::Netdev(kind) => write!(f, "network back end `{kind}`"),
        }
    }
}

/// What `board` needs and `inventory` has not.
pub fn lacks(board: &Board, inventory: &Inventory) -> Vec<Lack> {
    let launch = Launch {
        accelerator: Accelerator::Tcg,
        sandbox: false,
        firmware: FirmwareFiles::BuiltIn,
        media: board.media.iter().map(|medium| (medium.name.clone(), Disk::Raw(PathBuf::new()))).collect(),
        boots_first: None,
        reach: Reach::NOTHING,
    };
    let vector = arguments(board, &launch);
    let mut lacks = Vec::new();
    for pair in vector.windows(2) {
        let name = pair[1].split(',').next().unwrap_or_default().to_owned();
        let lack = match pair[0].as_str() {
            "-machine" if inventory.machine(&name).is_none() => Lack::Machine { since: since(&name), name },
            "-device" if !inventory.devices.contains(&name) => Lack::Device(name),
            "-netdev" if !inventory.has_netdev(&name) => Lack::Netdev(name),
            _ => continue,
        };
        if !lacks.contains(&lack) {
            lacks.push(lack);
        }
    }
    lacks
}

/// Machine types that came later than the oldest QEMU that we run, 7.2; from QEMU's change logs.
fn since(machine: &str) -> Option<Version> {
    let version = |major, minor| Some(Version { major, minor, micro: 0 });
    match machine {
        "raspi4b" => version(9, 0),
        "imx8mp-evk" => version(10, 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::board::catalog::Catalog;
    use crate::qemu::binary::MachineType;

    fn board(slug: &str) -> Arc<Board> {
        Catalog::load(None).unwrap().board(slug).unwrap()
    }

    fn poor() -> Inventory {
        Inventory {
            version: Version { major: 7, minor: 2, micro: 0 },
            package: String::new(),
            machines: vec![MachineType {
                name: "pc-q35-7.2".to_owned(),
                alias: Some("q35".to_owned()),
                cpu_max: 1,
            }],
            devices: BTreeSet::new(),
            accelerators: vec!["tcg".to_owned()],
            netdevs: vec!["user".to_owned()],
            sandbox: false,
        }
    }

    #[test]
    fn what_a_board_needs_is_what_its_arguments_name() {
        let lacks_device = |slug: &str, device: &str| {
            lacks(&board(slug), &poor()).contains(&Lack::Device(device.to_owned()))
        };
        assert!(lacks_device("generic-amd64", "virtio-net-pci") || lacks_device("generic-amd64", "e1000e"));
        let pi = lacks(&board("raspberrypi3-64"), &poor());
        assert!(pi.contains(&Lack::Machine { name: "raspi3b".to_owned(), since: None }), "{pi:?}");
        let no_network = Inventory { netdevs: Vec::new(), ..poor() };
        assert!(lacks(&board("generic-amd64"), &no_network).contains(&Lack::Netdev("user".to_owned())));
    }

    #[test]
    fn a_machine_of_a_later_qemu_says_so() {
        let mut late = (*board("raspberrypi3-64")).clone();
        late.qemu.machine = "raspi4b".to_owned();
        let lack = lacks(&late, &poor()).remove(0);
        assert_eq!(lack.to_string(), "machine type `raspi4b`, which QEMU 9.0.0 brought");
    }
}
