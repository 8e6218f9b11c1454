// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes as people write them: a whole number and a binary suffix.

use std::fmt;

/// The suffixes, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Why a text is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Nothing where a size is wanted.
    #[error("a size is missing")]
    Missing,
    /// Not digits with at most one known suffix.
    #[error("this is no size")]
    NotASize,
    /// Does not fit 64 bits.
    #[error("this size does not fit 64 bits")]
    TooLarge,
    /// Nothing can be zero bytes long.
    #[error("a size of zero")]
    Zero,
}

/// Reads `4096`, `64K`, `16M`, `1G`, `2T`; the suffix may be in lower case and end in `iB`.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    if text.is_empty() {
        return Err(SizeError::Missing);
    }
    let bare = text.strip_suffix("iB").unwrap_or(text);
    let last = bare.chars().next_back().map(|c| c.to_ascii_uppercase());
    let unit = UNITS.iter().find(|(letter, _)| Some(*letter) == last);
    let (digits, shift) = match unit {
        Some((_, shift)) => (&bare[..bare.len() - 1], *shift),
        None if bare.len() == text.len() => (bare, 0),
        None => return Err(SizeError::NotASize),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SizeError::NotASize);
    }
    let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge)?;
    match number.checked_mul(1 << shift) {
        None => Err(SizeError::TooLarge),
        Some(0) => Err(SizeError::Zero),
        Some(bytes) => Ok(bytes),
    }
}

/// A number of bytes, shown exactly as a spec takes it: `64M`, `1536K`, `1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact(pub u64);

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{letter}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A number of bytes, shown for reading: `64 MiB`, `1.5 GiB`, `1000 B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Human(pub u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in UNITS {
            if self.0 >> shift == 0 {
                continue;
            }
            if self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {letter}iB", self.0 >> shift);
            }
            // Two decimals cut, not rounded, so that what is short of a whole never reads as whole.
            let hundredths = (u128::from(self.0) * 100) >> shift;
            let (whole, rest) = (hundredths / 100, hundredths % 100);
            return match rest % 10 {
                0 => write!(f, "{whole}.{} {letter}iB", rest / 10),
                _ => write!(f, "{whole}.{rest:02} {letter}iB"),
            };
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64KiB", 64 << 10),
            ("16M", 16 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for (text, why) in [
            ("", SizeError::Missing),
            ("K", SizeError::NotASize),
            ("iB", SizeError::NotASize),
            ("1iB", SizeError::NotASize),
            ("1B", SizeError::NotASize),
            ("1KB", SizeError::NotASize),
            ("1.5G", SizeError::NotASize),
            ("-1", SizeError::NotASize),
            ("+1", SizeError::NotASize),
            ("1 G", SizeError::NotASize),
            ("0x10", SizeError::NotASize),
            ("16P", SizeError::NotASize),
            ("1é", SizeError::NotASize),
            ("0", SizeError::Zero),
            ("0G", SizeError::Zero),
            ("16777216T", SizeError::TooLarge),
            ("99999999999999999999", SizeError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(why), "{text}");
        }
    }

    #[test]
    fn shown_for_a_spec_and_for_reading() {
        for (bytes, exact, human) in [
            (0, "0", "0 B"),
            (1000, "1000", "1000 B"),
            (4096, "4K", "4 KiB"),
            (1536 << 10, "1536K", "1.5 MiB"),
            ((1 << 30) + 1, "1073741825", "1.0 GiB"),
            (64 << 20, "64M", "64 MiB"),
            (5 << 38, "1280G", "1.25 TiB"),
            (u64::MAX, "18446744073709551615", "16777215.99 TiB"),
        ] {
            assert_eq!(Exact(bytes).to_string(), exact);
            assert_eq!(Human(bytes).to_string(), human);
        }
    }
}
