// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`ReadOnly`]: a device that takes writes, served to somebody who may not make any.

use std::sync::Arc;

use pageless_block::{BlockDevice, DirectAccess, Error, ExtentMap, Limits, Queue};

/// A device whose limits say that it is read-only, to which its checked queues hold everybody.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    device: Arc<dyn BlockDevice>,
    limits: Limits,
}

impl ReadOnly {
    pub(crate) fn of(device: Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
        let limits = Limits { read_only: true, ..device.limits().clone() };
        Arc::new(ReadOnly { device, limits })
    }
}

impl BlockDevice for ReadOnly {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn capacity(&self) -> u64 {
        self.device.capacity()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        self.device.open_queue()
    }

    fn dax(&self) -> Option<Box<dyn DirectAccess>> {
        self.device.dax()
    }

    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        self.device.extents()
    }
}
