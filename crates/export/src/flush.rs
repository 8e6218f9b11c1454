// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flush at the end of every server.

use std::time::Duration;

use pageless_block::{Bio, BlockDevice, Queue, Status, open_checked};
use pageless_sys::epoll::{Epoll, Interest};

use crate::Error;

/// Makes durable what was written, where the device can.
pub(crate) fn flush(device: &dyn BlockDevice) -> Result<(), Error> {
    let limits = device.limits();
    if !limits.flush || limits.read_only {
        return Ok(());
    }
    let mut queue = open_checked(device)?;
    let failed = |status| Error::Flush { device: device.name().into(), status };
    queue.submit(Bio::flush(0)).map_err(|refused| failed(refused.why.status()))?;
    let mut completions = Vec::new();
    let mut epoll = Epoll::new(1)?;
    if let Some(event) = queue.event() {
        epoll.add(event, 0, Interest::Read)?;
    }
    loop {
        queue.poll(&mut completions)?;
        match completions.first().map(|completion| completion.status) {
            Some(Status::Ok) => return Ok(()),
            Some(status) => return Err(failed(status)),
            None => epoll.wait(Some(Duration::from_secs(1)), &mut Vec::new())?,
        }
    }
}
