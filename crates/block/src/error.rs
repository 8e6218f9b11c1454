// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Error`]: why a device or a queue cannot go on. How single requests end is a
//! [`Status`](crate::Status).

/// Why a device or a queue cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A driver states limits that no device can have.
    #[error("the {what} cannot be {value}")]
    Limits {
        /// Which limit.
        what: &'static str,
        /// What the driver says it is.
        value: u64,
    },
    /// A driver completed a request that it was not given, or completed one twice.
    #[error("the driver completed tag {0:#x}, which is not in flight")]
    UnknownTag(u64),
    /// Memory failed underneath.
    #[error(transparent)]
    Memory(#[from] pageless_mem::Error),
    /// The driver failed in a way of its own.
    #[error("{device}: {source}")]
    Device {
        /// The device's name.
        device: String,
        /// What the driver says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// A driver's own error, with the name of its device.
    pub fn device(device: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Device { device: device.into(), source: source.into() }
    }
}
