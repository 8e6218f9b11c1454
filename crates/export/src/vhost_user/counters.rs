// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server did, counted. Each worker writes its own [`Counters`] and no other thread does; anyone may read.

use pageless_block::{RouteCounters, RouteTotals};

use crate::counter::Counter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            /// Which way bytes went.
            pub(crate) routes: RouteCounters,
        }

        /// What all workers of a server did since it started.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
            /// Which way bytes went between the guests and the device.
            pub routes: RouteTotals,
        }

        impl Totals {
            pub(crate) fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
                self.routes.add(&counters.routes.totals());
            }
        }
    };
}

counters! {
    /// Read requests.
    reads,
    /// Write requests.
    writes,
    /// Flush requests.
    flushes,
    /// Discard requests.
    discards,
    /// Write-zeroes requests.
    zeroes,
    /// Requests answered with an error.
    errors,
    /// Requests that an earlier server left behind, done again.
    recovered,
    /// Bytes of data put into guests.
    bytes_read,
    /// Bytes of data taken from guests.
    bytes_written,
    /// Times that a worker slept and was kicked.
    kicks,
    /// Times that a guest was called.
    calls,
    /// Batches of used entries that were published.
    batches,
    /// Rings that broke the protocol.
    broken,
}
