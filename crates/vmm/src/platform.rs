//! The few ports of a PC that Linux looks for: keyboard controller, CMOS clock, sleep and reset registers, and
//! the panic device. None has state beyond a selected index.
//!
//! Owner: the bus. Called on the vCPU threads.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use hull_protocol::exit::ExitReason;

use crate::boot::acpi::{RESET_VALUE, SLEEP_TYPE_OFF};
use crate::bus::Effect;

/// pvpanic, as QEMU defines it.
pub const PANIC_PORT: u16 = 0x505;
/// ACPI sleep control register.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register.
pub const RESET_PORT: u16 = 0x602;

const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
const NMI_STATUS: u16 = 0x61;
const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
/// pvpanic: the guest's kernel panicked; the guest loaded a crash kernel (no end yet).
const PANICKED: u8 = 1;
/// ACPI 6.5, 4.8.3.7: bits 2 to 4 are the sleep type, bit 5 enables.
const SLEEP_ENABLE: u8 = 1 << 5;

/// The platform's ports.
#[derive(Debug, Default)]
pub struct Platform {
    cmos_index: AtomicU8,
}

impl Platform {
    /// The guest reads a port.
    pub fn read(&self, port: u16) -> u8 {
        match port {
            // Nothing is pending and nothing is full: a driver gives up at once.
            0x60 | I8042_COMMAND | SLEEP_STATUS_PORT => 0,
            // No parity or bus error: the reason for a non-maskable interrupt is none of these.
            NMI_STATUS => 0,
            PANIC_PORT => PANICKED,
            CMOS_DATA => cmos(self.cmos_index.load(Ordering::Relaxed)),
            _ => 0xff,
        }
    }

    /// The guest writes a port.
    pub fn write(&self, port: u16, value: u8) -> Effect {
        match (port, value) {
            (I8042_COMMAND, I8042_RESET) | (RESET_PORT, RESET_VALUE) => Effect::End(ExitReason::Reset),
            (SLEEP_CONTROL_PORT, _) if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SLEEP_TYPE_OFF => {
                Effect::End(ExitReason::PowerOff)
            }
            (PANIC_PORT, _) if value & PANICKED != 0 => Effect::End(ExitReason::GuestPanic),
            (CMOS_INDEX, _) => {
                self.cmos_index.store(value & 0x7f, Ordering::Relaxed);
                Effect::None
            }
            _ => Effect::None,
        }
    }
}

/// A CMOS clock register (MC146818): the host's time in UTC, binary, 24 hours, no update in progress.
fn cmos(index: u8) -> u8 {
    // By the standard library: another's first look for the fast clock is a call that a vCPU's thread may not make.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(0);
    let days = seconds.div_euclid(86_400);
    let (year, month, day) = civil(days);
    let value = match index {
        0x00 => seconds.rem_euclid(60),
        0x02 => seconds.div_euclid(60).rem_euclid(60),
        0x04 => seconds.div_euclid(3600).rem_euclid(24),
        0x06 => (days + 4).rem_euclid(7) + 1,
        0x07 => day,
        0x08 => month,
        0x09 => year.rem_euclid(100),
        0x32 => year.div_euclid(100),
        0x0b => 0x06, // binary, 24 hours
        0x0d => 0x80, // the battery is good
        _ => 0,
    };
    u8::try_from(value).unwrap_or(0)
}

/// Days since 1970-01-01 as year, month and day of the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of year 0, so that the leap day comes last.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
    }

    #[test]
    fn each_way_to_end_is_told_apart() {
        let platform = Platform::default();
        for (port, value, effect) in [
            (0x64, 0xfe, Effect::End(ExitReason::Reset)),
            (RESET_PORT, 1, Effect::End(ExitReason::Reset)),
            (SLEEP_CONTROL_PORT, 0x34, Effect::End(ExitReason::PowerOff)),
            (SLEEP_CONTROL_PORT, 0x14, Effect::None),
            (PANIC_PORT, 1, Effect::End(ExitReason::GuestPanic)),
            (0x64, 0x20, Effect::None),
        ] {
            assert_eq!(platform.write(port, value), effect, "{port:#x} {value:#x}");
        }
    }
}
