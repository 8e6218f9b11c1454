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
            /// Which way bytes went, for each export.
            pub(crate) routes: Box<[RouteCounters]>,
        }

        /// What all workers of a server did since it started.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
            /// Which way bytes went between clients or slots and each export, in the order of the configuration.
            pub routes: Vec<RouteTotals>,
        }

        impl Totals {
            pub(crate) fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
                self.routes.resize_with(counters.routes.len().max(self.routes.len()), RouteTotals::default);
                for (sum, routes) in self.routes.iter_mut().zip(&counters.routes) {
                    sum.add(&routes.totals());
                }
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
    /// Bytes answered as holes or zeroes without touching the medium.
    bytes_hole,
}

impl Counters {
    /// Nothing yet, for so many exports.
    pub(crate) fn new(exports: usize) -> Counters {
        Counters { routes: (0..exports).map(|_| RouteCounters::default()).collect(), ..Counters::default() }
    }
}
