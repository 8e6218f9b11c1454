// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server did, counted. Each worker writes its own [`Counters`] and no other thread does; anyone may read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pageless_block::Route;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// What all workers of a server did since it started.
        #[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Totals {
            pub(crate) fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
            }
        }
    };
}

counters! {
    /// Connections taken on.
    connections,
    /// Connections dropped because the client broke the protocol or a reply could not be finished.
    dropped,
    /// Read requests.
    reads,
    /// Write requests.
    writes,
    /// Flush requests.
    flushes,
    /// Trim requests.
    trims,
    /// Write-zeroes requests.
    zeroes,
    /// Block status requests.
    statuses,
    /// Requests answered with an error.
    errors,
    /// Bytes of data sent to clients.
    bytes_read,
    /// Bytes of data stored for clients.
    bytes_written,
    /// Bytes that went between socket or slot and medium as they were.
    bytes_direct,
    /// Bytes that a device moved by dma-buf.
    bytes_dma_buf,
    /// Bytes that went through a driver's bounce slot.
    bytes_bounce,
    /// Bytes that a CPU moved between slot and medium.
    bytes_copy,
    /// Bytes answered as holes or zeroes without touching the medium.
    bytes_hole,
}

impl Counters {
    /// A device moved bytes this way.
    pub(crate) fn route(&self, route: Route, bytes: u64) {
        match route {
            Route::None => {}
            Route::Direct => self.bytes_direct.add(bytes),
            Route::DmaBuf => self.bytes_dma_buf.add(bytes),
            Route::Bounce(_) => self.bytes_bounce.add(bytes),
            Route::Copy(_) => self.bytes_copy.add(bytes),
        }
    }
}

/// A number with one writer: no locked instruction is needed to add to it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
