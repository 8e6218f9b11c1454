// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to move, in order: the data and the holes of a device, cut into pieces.

use pageless::block::{BlockDevice, Extent, ExtentMap, Status};

/// Holes are zeroed in steps of this size, so that progress shows and Ctrl-C is heard.
const LONGEST_HOLE: u64 = 1 << 30;

/// Bytes that are all data or all hole, from the plan's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) hole: bool,
    pub(super) until: u64,
}

/// A range of a device to be moved, or zeroed if it is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) hole: bool,
}

/// Walks a device from its start to `end`.
#[derive(Debug)]
pub(super) struct Plan {
    map: Option<Box<dyn ExtentMap>>,
    at: u64,
    end: u64,
    unit: u64,
    run: Run,
}

impl Plan {
    /// The first `end` bytes of a device, in pieces of whole `unit`s; everything is data when `holes` are not wanted.
    pub(super) fn new(device: &dyn BlockDevice, end: u64, unit: u64, holes: bool) -> Plan {
        Plan::over(if holes { device.extents() } else { None }, end, unit)
    }

    fn over(map: Option<Box<dyn ExtentMap>>, end: u64, unit: u64) -> Plan {
        Plan { map, at: 0, end, unit, run: Run { hole: false, until: 0 } }
    }

    /// How far it has come.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// What is at the position; nothing at the end.
    pub(super) fn run(&mut self) -> Result<Option<Run>, Status> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.run.until <= self.at {
            self.run = self.look()?;
        }
        Ok(Some(self.run))
    }

    fn look(&mut self) -> Result<Run, Status> {
        let Some(map) = &mut self.map else {
            return Ok(Run { hole: false, until: self.end });
        };
        let extent = map.next(self.at, self.end - self.at)?;
        Ok(match extent {
            Extent::Data(len) => {
                let until = self.at.saturating_add(len).next_multiple_of(self.unit);
                Run { hole: false, until: until.min(self.end) }
            }
            Extent::Hole(len) => {
                let until = self.at.saturating_add(len);
                let until = if until >= self.end { self.end } else { until - until % self.unit };
                // A hole that covers no whole unit goes with the data around it.
                if until > self.at {
                    Run { hole: true, until }
                } else {
                    Run { hole: false, until: (self.at + self.unit).min(self.end) }
                }
            }
        })
    }

    /// Moves on within the current run.
    pub(super) fn advance(&mut self, len: u64) {
        self.at += len;
    }

    /// The next piece, data no longer than `block`.
    pub(super) fn next(&mut self, block: u64) -> Result<Option<Piece>, Status> {
        let Some(run) = self.run()? else { return Ok(None) };
        let longest = if run.hole { LONGEST_HOLE } else { block };
        let piece = Piece { offset: self.at, len: (run.until - self.at).min(longest), hole: run.hole };
        self.advance(piece.len);
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Data and holes by their ends, starting with data.
    #[derive(Debug)]
    struct Ends(Vec<u64>);

    impl ExtentMap for Ends {
        fn next(&mut self, offset: u64, len: u64) -> Result<Extent, Status> {
            let (at, end) = self.0.iter().enumerate().find(|(_, end)| **end > offset).ok_or(Status::OutOfRange)?;
            let len = len.min(end - offset);
            Ok(if at % 2 == 0 { Extent::Data(len) } else { Extent::Hole(len) })
        }
    }

    fn pieces(ends: &[u64], unit: u64, block: u64) -> Vec<Piece> {
        let end = *ends.last().expect("an end");
        let mut plan = Plan::over(Some(Box::new(Ends(ends.to_vec()))), end, unit);
        std::iter::from_fn(|| plan.next(block).expect("inside")).collect()
    }

    #[test]
    fn data_grows_to_whole_units_and_holes_shrink() {
        let piece = |offset, len, hole| Piece { offset, len, hole };
        assert_eq!(
            pieces(&[5000, 100_000, 120_000], 4096, 8192),
            [
                piece(0, 8192, false),
                piece(8192, 90_112, true),
                piece(98_304, 4096, false),
                piece(102_400, 8192, false),
                piece(110_592, 8192, false),
                piece(118_784, 120_000 - 118_784, false),
            ]
        );
        // A hole of less than a unit, and one that ends with the device.
        assert_eq!(pieces(&[100, 600, 4096, 9000], 4096, 1 << 20), [piece(0, 4096, false), piece(4096, 4904, true)]);
    }

    #[test]
    fn without_a_map_all_is_data() {
        let mut plan = Plan::over(None, 10_000, 4096);
        assert_eq!(plan.run(), Ok(Some(Run { hole: false, until: 10_000 })));
        assert_eq!(plan.next(1 << 20), Ok(Some(Piece { offset: 0, len: 10_000, hole: false })));
        assert_eq!(plan.next(1 << 20), Ok(None));
    }

    proptest! {
        #[test]
        fn pieces_cover_everything_once_and_no_data_is_a_hole(
            lens in prop::collection::vec(1_u64..40_000, 1..20), block in 1_u64..64,
        ) {
            let ends: Vec<u64> = lens.iter().scan(0, |at, len| { *at += len; Some(*at) }).collect();
            let block = block * 4096;
            let mut at = 0;
            for piece in pieces(&ends, 4096, block) {
                prop_assert_eq!(piece.offset, at);
                prop_assert!(piece.len > 0 && (piece.hole || piece.len <= block));
                at += piece.len;
                let mut map = Ends(ends.clone());
                if piece.hole {
                    prop_assert_eq!(map.next(piece.offset, piece.len), Ok(Extent::Hole(piece.len)));
                }
            }
            prop_assert_eq!(at, *ends.last().unwrap());
        }
    }
}
