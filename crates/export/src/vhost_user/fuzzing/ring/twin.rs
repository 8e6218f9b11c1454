// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Twin`]: the same ring walked by the `virtio-queue` crate. The fuzz target takes this file too.

use pageless_mem::Memory;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{AVAIL, FREE, LEN, SIZE, TABLE, USED, Walked, Walker};

/// What two that agree made of an input.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Chains that both walked.
    pub(crate) walked: u32,
    /// Chains that this side refused.
    pub(crate) refused: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Twin {
    ours: Walker,
    theirs: GuestMemoryMmap,
}

/// A chain as the other walks it, and whether it came to an end that is one.
struct Theirs {
    head: u16,
    walked: Walked,
    ended: bool,
}

impl Twin {
    pub(crate) fn new() -> Twin {
        let memory = Memory::new().expect("memory");
        let ours = Walker::new(&memory).expect("memory of a guest");
        let theirs = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), LEN as usize)]).expect("memory of a guest");
        Twin { ours, theirs }
    }

    fn store(&mut self, at: u64, bytes: &[u8]) {
        self.ours.store(at, bytes);
        self.theirs.write_slice(bytes, GuestAddress(at)).expect("the guest's memory is there");
    }

    /// The input: features, the index of both sides, how many heads are available, when the driver wants to be called; then the
    /// guest's bytes.
    ///
    /// # Panics
    /// When the two do not agree.
    pub(crate) fn compare(&mut self, input: &[u8]) -> Compared {
        let (head, guest) = input.split_at(input.len().min(6));
        let mut head: [u8; 6] = std::array::from_fn(|at| head.get(at).copied().unwrap_or(0));
        head[3] %= SIZE as u8 + 2;
        let [features, low, high, count, event, later] = head;
        let (event_idx, index) = (features & 1 != 0, u16::from_le_bytes([low, high]));
        let mut bytes = guest[..guest.len().min(LEN as usize)].to_vec();
        bytes.resize(LEN as usize, 0);
        self.store(0, &bytes);
        self.store(AVAIL, &u16::from(features >> 1 & 1).to_le_bytes());
        self.store(AVAIL + 2, &index.wrapping_add(count.into()).to_le_bytes());
        self.call_at(index.wrapping_add(event.into()));

        let mut queue = Queue::new(SIZE).expect("a queue");
        queue.set_desc_table_address(Some(TABLE as u32), None);
        queue.set_avail_ring_address(Some(AVAIL as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_event_idx(event_idx);
        queue.set_next_avail(index);
        queue.set_next_used(index);
        queue.set_ready(true);
        self.ours.begin(index, event_idx);

        let mut compared = Compared::default();
        let chains = queue.iter(&self.theirs).ok().map(|chains| chains.map(walk).collect::<Vec<_>>());
        assert_eq!(self.ours.waiting().map(usize::from), chains.as_ref().map(Vec::len), "how many are available");
        let mut used = Vec::new();
        for theirs in chains.into_iter().flatten() {
            let Some((head, ours)) = self.ours.take() else {
                assert!(theirs.head >= SIZE && !theirs.ended, "there is a descriptor {}", theirs.head);
                compared.refused += 1;
                continue;
            };
            assert_eq!(head, theirs.head);
            used.push((head, 17 * used.len() as u32));
            match ours {
                Ok(walked) => {
                    // More bytes than the specification allows end the other's walk; here the device is asked, and refuses.
                    let runs = walked.readable.iter().chain(&walked.writable);
                    if runs.map(|run| u64::from(run.1)).sum::<u64>() > u32::MAX.into() {
                        compared.walked += 1;
                        continue;
                    }
                    assert!(theirs.ended, "head {head} leads nowhere: {walked:?}");
                    assert_eq!(walked, theirs.walked, "head {head}");
                    compared.walked += 1;
                }
                // The other reads a table that is partly nowhere, or goes on behind one, as far as it can.
                Err(refused) => {
                    assert!(!theirs.ended || refused.table, "head {head} is a chain: {:?}", theirs.walked);
                    compared.refused += 1;
                }
            }
        }

        // One who was never asked may call too often.
        let (ours, theirs) = self.give(&mut queue, &used);
        if event_idx {
            assert!(ours || !theirs, "the driver is not called");
        } else {
            assert_eq!(ours, features >> 1 & 1 == 0, "the driver is called although it does not want to, or not");
        }
        self.call_at(index.wrapping_add(later.into()));
        let (ours, theirs) = self.give(&mut queue, &[(3, 5)]);
        assert!(!event_idx || ours == theirs, "called: {ours}, by the other: {theirs}");
        let used = (FREE - USED) as usize;
        let mut other = vec![0; used];
        self.theirs.read_slice(&mut other, GuestAddress(USED)).expect("the guest's memory is there");
        assert_eq!(self.ours.load(USED, used), other, "the used ring");
        compared
    }

    /// The driver wants to be called when this was used.
    fn call_at(&mut self, index: u16) {
        self.store(AVAIL + 4 + 2 * u64::from(SIZE), &index.to_le_bytes());
    }

    /// Gives heads back on both sides, and says who would call.
    fn give(&mut self, queue: &mut Queue, heads: &[(u16, u32)]) -> (bool, bool) {
        for (head, written) in heads {
            queue.add_used(&self.theirs, *head, *written).expect("a head of the ring");
        }
        let theirs = queue.needs_notification(&self.theirs).expect("a ring");
        if heads.is_empty() {
            // This side writes its index whether or not it moved; the other does not.
            self.theirs.write_obj(queue.next_used(), GuestAddress(USED + 2)).expect("the guest's memory is there");
        }
        (self.ours.give(heads).expect("a ring"), theirs)
    }
}

fn walk(mut chain: virtio_queue::DescriptorChain<&GuestMemoryMmap>) -> Theirs {
    let mut theirs = Theirs { head: chain.head_index(), walked: Walked::default(), ended: false };
    for descriptor in chain.by_ref() {
        let run = (descriptor.addr().0, descriptor.len());
        let walked = &mut theirs.walked;
        if descriptor.is_write_only() {
            walked.writable.push(run);
        } else {
            walked.disordered |= !walked.writable.is_empty();
            walked.readable.push(run);
        }
        theirs.ended = !descriptor.has_next();
    }
    theirs
}
