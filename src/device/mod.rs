//! The device under test in hand, as parts that can be operated.

pub mod console;

/// Who is to blame for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The DUT did not do what was expected of it.
    Dut,
    /// The lab could not do its part, so nothing is known of the DUT.
    Lab,
    /// What was asked for makes no sense.
    User,
}
