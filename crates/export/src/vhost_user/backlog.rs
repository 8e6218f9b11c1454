// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Backlog`]: bios that are to be submitted, in order.

use pageless_block::Bio;

/// See the [module](self). A bio of one range goes in and out by its parts: see [`Bio::pass`].
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bios: Vec<Bio>,
    /// Those before it are submitted.
    next: usize,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.bios.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.bios.clear();
        self.next = 0;
    }

    #[inline]
    pub(crate) fn push(&mut self, bio: Bio) {
        bio.pass(|bio| self.bios.push(bio));
    }

    /// The first one.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Bio> {
        let Some(first) = self.bios.get_mut(self.next) else {
            self.clear();
            return None;
        };
        self.next += 1;
        let Bio { op, flags, sector, len, ref mut data, tag } = *first;
        let data = data.single().map_or_else(|| std::mem::take(data), Into::into);
        Some(Bio { op, flags, sector, len, data, tag })
    }

    /// What came out last is the first again.
    #[cold]
    pub(crate) fn put_back(&mut self, bio: Bio) {
        self.next -= 1;
        self.bios[self.next] = bio;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless_block::{Flags, ScatterList, Sector};
    use pageless_mem::{Pfn, PhysRange};

    #[test]
    fn what_goes_in_comes_out_whole_and_in_order_also_when_it_was_put_back() {
        let range = |n: u64| PhysRange::new(Pfn::new(2 * n).unwrap(), 0, 4096).unwrap();
        let list = |count| (0..count).map(range).collect::<ScatterList>();
        let bios = [
            Bio::read(Sector(8), list(1), 1),
            Bio::write(Sector(16), list(1), 2).with_flags(Flags::FUA),
            Bio::write(Sector(24), list(3), 3).with_flags(Flags::FUA),
            Bio::flush(4),
            Bio::write_zeroes(Sector(32), 512, 5).with_flags(Flags::NO_UNMAP),
            Bio::read(Sector(40), list(9), 6),
        ];
        let mut backlog = Backlog::default();
        bios.iter().for_each(|bio| backlog.push(bio.clone()));
        for bio in &bios {
            let out = backlog.pop().unwrap();
            assert_eq!(format!("{out:?}"), format!("{bio:?}"));
            backlog.put_back(out);
            assert_eq!(format!("{:?}", backlog.pop().unwrap()), format!("{bio:?}"));
        }
        assert!(backlog.pop().is_none() && backlog.is_empty());
    }
}
