//! The kernel's command line, as the Raspberry Pi's firmware puts it together.
//!
//! Pure. Sources beside the documentation: the firmware writes the device tree's own `bootargs` first, its own
//! settings next and the card's line last (the kernel's log in
//! <https://github.com/raspberrypi/linux/issues/4176>); it replaces `serial0` and `serial1` by the names of the
//! primary and the secondary UART (<https://github.com/raspberrypi/linux/issues/2932>).

use super::super::config_txt::ConfigTxt;
use super::{MAX_COMMAND_LINE_BYTES, Model};

/// Which UART is on GPIO 14 and 15 ("Primary UART" in Configure UARTs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrimaryUart {
    /// The first PL011: QEMU's serial port 0, `ttyAMA0`.
    Pl011,
    /// The mini-UART: QEMU's serial port 1, `ttyS0` (`ttyS1` with an upstream device tree).
    MiniUart,
}

impl PrimaryUart {
    /// The mini-UART on models whose PL011 serves Bluetooth, unless an overlay takes it away from Bluetooth
    /// ("Primary and Secondary UART", "UARTs and Device Tree").
    pub(super) fn of(model: Model, config: &ConfigTxt) -> Self {
        let swaps = ["disable-bt", "miniuart-bt", "pi3-disable-bt", "pi3-miniuart-bt"];
        let swapped = config.overlays.iter().any(|line| {
            let value = line.strip_prefix("dtoverlay").and_then(|rest| rest.split(['=', ' ', ',']).nth(1));
            value.is_some_and(|overlay| swaps.contains(&overlay.trim()))
        });
        match model {
            Model::Pi3 | Model::Pi4 if !swapped => Self::MiniUart,
            Model::Pi2 | Model::Pi3 | Model::Pi4 => Self::Pl011,
        }
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Pl011 => ("ttyAMA0", "ttyS0"),
            Self::MiniUart => ("ttyS0", "ttyAMA0"),
        }
    }
}

/// Joins the device tree's arguments and the first line of the card's file.
pub(super) fn build(
    of_device_tree: &str,
    of_card: &str,
    primary: PrimaryUart,
    config: &ConfigTxt,
    notes: &mut Vec<String>,
) -> String {
    let mut first = of_device_tree.to_owned();
    // The mini-UART "is disabled by default" where it is the primary one (Configure UARTs); the firmware says so
    // with the number of 8250 ports, which the device tree asks for.
    if primary == PrimaryUart::MiniUart && config.enable_uart != Some(true) {
        first = first.replace("8250.nr_uarts=1", "8250.nr_uarts=0");
        notes.push(
            "enable_uart is not set: a real board's mini-UART stays off, its console is silent".to_owned(),
        );
    }
    let (serial0, serial1) = primary.names();
    let line = of_card.lines().next().unwrap_or_default();
    let line = line.replace("=serial0", &format!("={serial0}")).replace("=serial1", &format!("={serial1}"));
    let joined: Vec<&str> = first.split_whitespace().chain(line.split_whitespace()).collect();
    // QEMU gets it as an argument, which cannot hold every byte that a card can.
    let mut joined: String = joined.join(" ").chars().filter(|c| !c.is_control()).collect();
    if joined.len() > MAX_COMMAND_LINE_BYTES {
        let mut end = MAX_COMMAND_LINE_BYTES;
        while !joined.is_char_boundary(end) {
            end -= 1;
        }
        joined.truncate(end);
        notes.push(format!("the kernel's command line is cut to {MAX_COMMAND_LINE_BYTES} bytes"));
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(of_device_tree: &str, of_card: &str, config: &ConfigTxt) -> (String, Vec<String>) {
        let mut notes = Vec::new();
        let primary = PrimaryUart::of(Model::Pi3, config);
        (build(of_device_tree, of_card, primary, config, &mut notes), notes)
    }

    fn config(overlay: &str) -> ConfigTxt {
        ConfigTxt { enable_uart: Some(true), overlays: vec![overlay.to_owned()], ..ConfigTxt::default() }
    }

    #[test]
    fn the_device_trees_arguments_come_first_and_the_cards_first_line_last() {
        let (line, notes) =
            built("coherent_pool=1M 8250.nr_uarts=1", "console=serial0,115200 quiet\nnever", &config(""));
        assert_eq!(line, "coherent_pool=1M 8250.nr_uarts=1 console=ttyS0,115200 quiet");
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn the_primary_uart_follows_the_overlays() {
        for overlay in ["dtoverlay=disable-bt", "dtoverlay pi3-miniuart-bt", "dtoverlay=miniuart-bt,x=1"] {
            assert_eq!(built("", "console=serial0 x=serial1", &config(overlay)).0, "console=ttyAMA0 x=ttyS0");
        }
        assert_eq!(PrimaryUart::of(Model::Pi2, &config("")), PrimaryUart::Pl011);
        assert_eq!(PrimaryUart::of(Model::Pi4, &config("dtparam=audio=on")), PrimaryUart::MiniUart);
    }

    #[test]
    fn without_enable_uart_the_console_is_as_silent_as_on_the_board() {
        let (line, notes) = built("8250.nr_uarts=1", "console=serial0", &ConfigTxt::default());
        assert_eq!(line, "8250.nr_uarts=0 console=ttyS0");
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn no_byte_of_a_card_can_break_an_argument() {
        assert_eq!(built("", "a\0b \u{1b}c\td", &config("")).0, "ab c d");
        let long = "é".repeat(MAX_COMMAND_LINE_BYTES);
        assert_eq!(built("", &long, &config("")).0.len(), MAX_COMMAND_LINE_BYTES);
    }
}
