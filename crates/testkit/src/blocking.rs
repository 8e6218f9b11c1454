// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Blocking`]: one bio at a time.

use crate::Error;
use pageless_block::{Bio, BlockDevice, Checked, Completion, Queue, ScatterList, Sector, open_checked};
use std::time::{Duration, Instant};

/// How long something may take that nothing should make slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A checked queue that does one bio and waits for it.
#[derive(Debug)]
pub struct Blocking(Checked);

impl Blocking {
    /// A queue of `device`.
    ///
    /// # Errors
    /// When the device cannot open one.
    pub fn new(device: &dyn BlockDevice) -> Result<Blocking, Error> {
        Ok(Blocking(open_checked(device)?))
    }

    /// Does a bio, however it ends.
    ///
    /// # Errors
    /// When it is refused, does not come back, or what comes back is something else.
    pub fn run(&mut self, bio: Bio) -> Result<Completion, Error> {
        let tag = bio.tag;
        self.0.submit(bio).map_err(|refused| Error::Refused(refused.why))?;
        let mut out = Vec::new();
        wait(&mut self.0, &mut out)?;
        match out[..] {
            [completion] if completion.tag == tag => Ok(completion),
            _ => Err(Error::Strange(out)),
        }
    }

    /// Does a bio that must end well.
    ///
    /// # Errors
    /// As [`run`](Self::run), or when it ends otherwise.
    pub fn must(&mut self, bio: Bio) -> Result<Completion, Error> {
        match self.run(bio)? {
            completion if completion.status.is_ok() => Ok(completion),
            completion => Err(Error::Failed(completion)),
        }
    }

    /// Reads into frames.
    ///
    /// # Errors
    /// As [`must`](Self::must).
    pub fn read(&mut self, sector: u64, data: impl Into<ScatterList>) -> Result<Completion, Error> {
        self.must(Bio::read(Sector(sector), data, 1))
    }

    /// Writes from frames.
    ///
    /// # Errors
    /// As [`must`](Self::must).
    pub fn write(&mut self, sector: u64, data: impl Into<ScatterList>) -> Result<Completion, Error> {
        self.must(Bio::write(Sector(sector), data, 1))
    }
}

/// Polls until nothing is in flight.
///
/// # Errors
/// [`Error::Stuck`] when nothing comes back for long.
pub fn wait(queue: &mut dyn Queue, out: &mut Vec<Completion>) -> Result<(), Error> {
    let mut since = Instant::now();
    while queue.in_flight() > 0 {
        if queue.poll(out)? > 0 {
            since = Instant::now();
        } else if since.elapsed() > PATIENCE {
            return Err(Error::Stuck { in_flight: queue.in_flight(), seconds: PATIENCE.as_secs() });
        } else {
            std::thread::yield_now();
        }
    }
    Ok(())
}
