// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Session`]: what one front-end has set, and what its messages do to the rings.
//!
//! # Order contract
//! Messages may come in any order. A ring is served from when it has a size, addresses that lie in the guest's memory and a
//! kick (or word that there is none), until `GET_VRING_BASE`; what is set before or between is kept for then. Of what is set
//! while it is served, size, addresses and base are kept for the next time, all else takes effect at once. Nothing a front-end says reaches anything but its own memory and rings.

mod error;
mod table;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pageless_mem::{Backing, Memory, Region};
use pageless_sys::eventfd::EventFd;
use pageless_sys::memfd;
use zerocopy::IntoBytes;

use super::config::{Offer, Offered};
use super::dirty::DirtyLog;
use super::guest_map::{GuestAddr, GuestMap, Slot};
use super::inflight::{InflightQueue, queue_bytes};
use super::message::Message;
use super::request::Features;
use super::ring::MAX_SIZE;
use super::running::RingSetup;
use super::wire::{
    CONFIG_WRITEBACK, ConfigHead, Inflight, LOG_USED, MAX_SLOTS, ProtocolFeatures, VringAddr, VringState,
};
use super::worker::{Change, Worker};

pub(crate) use error::SessionError;

/// What is sent back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) payload: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

impl From<Vec<u8>> for Answer {
    fn from(payload: Vec<u8>) -> Answer {
        Answer { payload, fd: None }
    }
}

/// What wakes a worker.
#[derive(Debug)]
enum Kick {
    /// Not said yet.
    Unset,
    /// Nothing: it looks by itself.
    Polled,
    Fd(EventFd),
    /// The worker has it.
    Given,
}

/// What is set of one ring.
#[derive(Debug)]
struct RingState {
    size: u16,
    addresses: Option<VringAddr>,
    base: u16,
    kick: Kick,
    call: Option<EventFd>,
    err: Option<EventFd>,
    enabled: Option<bool>,
    /// The worker serves it.
    served: bool,
}

impl RingState {
    const NONE: RingState = RingState {
        size: 0,
        addresses: None,
        base: 0,
        kick: Kick::Unset,
        call: None,
        err: None,
        enabled: None,
        served: false,
    };
}

/// Where what is in flight is recorded.
#[derive(Debug)]
struct Records {
    region: Region,
    /// The first record in it.
    offset: u64,
    queues: u16,
    queue_size: u16,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Session<'w> {
    workers: &'w [Worker],
    offer: &'w Offer,
    memory: &'w Memory,
    features: u64,
    protocol: ProtocolFeatures,
    map: Arc<GuestMap>,
    log: Option<Arc<DirtyLog>>,
    records: Option<Records>,
    rings: Vec<RingState>,
    wce: Arc<AtomicBool>,
}

impl<'w> Session<'w> {
    /// Of a front-end that has said nothing yet.
    pub(crate) fn new(workers: &'w [Worker], offer: &'w Offer, memory: &'w Memory) -> Session<'w> {
        Session {
            workers,
            offer,
            memory,
            features: 0,
            protocol: ProtocolFeatures::empty(),
            map: Arc::default(),
            log: None,
            records: None,
            rings: workers.iter().map(|_| RingState::NONE).collect(),
            wce: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Whether messages may ask how they went.
    pub(crate) fn acknowledges(&self) -> bool {
        self.protocol.contains(ProtocolFeatures::REPLY_ACK)
    }

    /// Does what a message says. `None`: it has no answer of its own.
    ///
    /// # Errors
    /// [`SessionError`]; the message did nothing, or what it did to one ring is said in the error.
    pub(crate) fn handle(&mut self, message: Message) -> Result<Option<Answer>, SessionError> {
        let number = |value: u64| Ok(Some(value.as_bytes().to_vec().into()));
        match message {
            Message::GetFeatures => return number(self.offer.features.bits()),
            Message::GetProtocolFeatures => return number(self.offer.protocol.bits()),
            Message::GetQueueNum => return number(self.offer.queues.into()),
            Message::GetMaxMemSlots => return number(MAX_SLOTS),
            Message::GetConfig(ConfigHead { offset, size, flags }) => {
                let bytes = self.offer.config(self.wce.load(Ordering::Relaxed), offset, size);
                let whole = |bytes: Vec<u8>| [ConfigHead { offset, size, flags }.as_bytes(), &bytes].concat();
                // An answer without a payload is an error.
                return Ok(Some(bytes.map(whole).unwrap_or_default().into()));
            }
            Message::GetVringBase(state) => return self.halt(state).map(Some),
            Message::GetInflightFd(wanted, bytes) => return self.new_records(wanted, bytes).map(Some),
            Message::SetLogBase(log, fd) => {
                self.set_log(log.offset, log.size, fd)?;
                // Some look at what they get back, others only that they do.
                return Ok(Some(log.as_bytes().to_vec().into()));
            }
            Message::SetFeatures(features) => self.set_features(features)?,
            Message::SetProtocolFeatures(features) => self.set_protocol_features(features)?,
            Message::SetOwner | Message::SetLogFd => {}
            Message::ResetOwner => self.halt_all(),
            Message::ResetDevice => self.reset(),
            Message::SetMemTable(entries) => {
                let slots = entries.into_iter().map(|(entry, fd)| table::slot(self.memory, entry, fd));
                self.set_map(slots.collect::<Result<_, _>>()?)?;
            }
            Message::AddMemRegion(entry, fd) => {
                let mut slots = self.map.slots().to_vec();
                if slots.len() as u64 >= MAX_SLOTS {
                    return Err(SessionError::Slots);
                }
                slots.push(table::slot(self.memory, entry, fd)?);
                self.set_map(slots)?;
            }
            Message::RemoveMemRegion(entry) => {
                let mut slots = self.map.slots().to_vec();
                let at = slots.iter().position(|slot| table::is(slot, &entry));
                slots.swap_remove(at.ok_or(SessionError::NoRegion { guest: entry.guest, size: entry.size })?);
                self.set_map(slots)?;
            }
            Message::SetVringNum(VringState { index, num }) => {
                let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two() && *size <= MAX_SIZE);
                let size = size.ok_or(SessionError::Size { ring: index, size: num })?;
                self.ring(index)?.size = size;
                self.try_start(index)?;
            }
            Message::SetVringAddr(addresses) => {
                self.ring(addresses.index)?.addresses = Some(addresses);
                self.relog(addresses.index)?;
                self.try_start(addresses.index)?;
            }
            Message::SetVringBase(VringState { index, num }) => {
                let base = u16::try_from(num).map_err(|_| SessionError::Base { ring: index, base: num })?;
                self.ring(index)?.base = base;
            }
            Message::SetVringEnable(VringState { index, num }) => {
                // Not only 0 and 1 are sent.
                self.ring(index)?.enabled = Some(num != 0);
                self.change(index, Change::Enabled(num != 0));
            }
            Message::SetVringKick(index, kick) => self.set_kick(index.into(), kick)?,
            Message::SetVringCall(index, call) => {
                let call = call.map(EventFd::adopt).transpose()?;
                let again = again(call.as_ref())?;
                self.ring(index.into())?.call = call;
                self.change(index.into(), Change::Call(again));
            }
            Message::SetVringErr(index, err) => {
                let err = err.map(EventFd::adopt).transpose()?;
                let again = again(err.as_ref())?;
                self.ring(index.into())?.err = err;
                self.change(index.into(), Change::Err(again));
            }
            Message::SetConfig(head, bytes) => self.set_config(head, &bytes)?,
            Message::SetInflightFd(told, fd) => self.set_records(told, fd)?,
        }
        Ok(None)
    }

    /// How many rings are served.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn served_rings(&self) -> usize {
        self.served().len()
    }

    fn ring(&mut self, index: u32) -> Result<&mut RingState, SessionError> {
        let most = self.rings.len();
        let ring = usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index));
        ring.ok_or(SessionError::Ring { ring: index, most })
    }

    /// Changes a ring that is served.
    fn change(&self, index: u32, change: Change) {
        let index = index as usize;
        if self.rings.get(index).is_some_and(|ring| ring.served) {
            self.workers[index].change(change);
        }
    }

    fn set_features(&mut self, features: u64) -> Result<(), SessionError> {
        let unknown = features & !self.offer.features.bits();
        if unknown != 0 {
            return Err(SessionError::Features { unknown });
        }
        self.features = features;
        for index in self.served() {
            self.relog(index)?;
        }
        Ok(())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<(), SessionError> {
        let known = ProtocolFeatures::from_bits(features).filter(|features| self.offer.protocol.contains(*features));
        let unknown = features & !self.offer.protocol.bits();
        self.protocol = known.ok_or(SessionError::Features { unknown })?;
        Ok(())
    }

    fn served(&self) -> Vec<u32> {
        (0..).zip(&self.rings).filter(|(_, ring)| ring.served).map(|(index, _)| index).collect()
    }

    fn has(&self, feature: Offered) -> bool {
        self.features & feature.bits() != 0
    }

    /// Where pages are marked now, and under which address the used ring of these addresses is.
    fn logged(&self, addresses: &VringAddr) -> (Option<Arc<DirtyLog>>, Option<GuestAddr>) {
        let log = self.log.as_ref().filter(|_| self.has(Offered::LOG_ALL)).map(Arc::clone);
        let used = (addresses.flags & LOG_USED != 0).then_some(GuestAddr(addresses.log));
        (log, used)
    }

    /// Tells a ring that is served where it logs.
    fn relog(&mut self, index: u32) -> Result<(), SessionError> {
        let Some(addresses) = self.ring(index)?.addresses else { return Ok(()) };
        let (log, used) = self.logged(&addresses);
        self.change(index, Change::Log(log, used));
        Ok(())
    }

    fn set_log(&mut self, offset: u64, size: u64, fd: OwnedFd) -> Result<(), SessionError> {
        let (region, start) = table::shared(self.memory, fd, offset, size)?;
        let log = DirtyLog::new(region, start, size).ok_or(SessionError::LogSize(size))?;
        self.log = Some(Arc::new(log));
        for index in self.served() {
            self.relog(index)?;
        }
        Ok(())
    }

    /// Replaces the guest's memory, and starts what waited for it.
    fn set_map(&mut self, slots: Vec<Arc<Slot>>) -> Result<(), SessionError> {
        self.map = Arc::new(GuestMap::new(slots)?);
        for index in (0..).take(self.rings.len()) {
            self.change(index, Change::Memory(Arc::clone(&self.map)));
            self.try_start(index)?;
        }
        Ok(())
    }

    fn set_kick(&mut self, index: u32, fd: Option<OwnedFd>) -> Result<(), SessionError> {
        let fd = fd.map(EventFd::adopt).transpose()?;
        let ring = self.ring(index)?;
        if ring.served {
            self.change(index, Change::Kick(fd));
            return Ok(());
        }
        ring.kick = fd.map_or(Kick::Polled, Kick::Fd);
        self.try_start(index)
    }

    /// Starts a ring that has all it needs.
    fn try_start(&mut self, index: u32) -> Result<(), SessionError> {
        let map = Arc::clone(&self.map);
        let features = Features::from_bits_retain(self.features);
        let by_itself = !self.has(Offered::PROTOCOL_FEATURES);
        let wce = Arc::clone(&self.wce);
        let Some(addresses) = self.ring(index)?.addresses else { return Ok(()) };
        let (log, log_used) = self.logged(&addresses);
        let find = |user| map.guest_of_user(user);
        let (Some(desc), Some(avail), Some(used)) =
            (find(addresses.descriptor), find(addresses.available), find(addresses.used))
        else {
            return Ok(());
        };
        let ring = self.ring(index)?;
        if ring.served || ring.size == 0 || matches!(ring.kick, Kick::Unset | Kick::Given) {
            return Ok(());
        }
        let inflight = self.records_of(index)?;
        let ring = self.ring(index)?;
        let kick = match std::mem::replace(&mut ring.kick, Kick::Given) {
            Kick::Fd(fd) => Some(fd),
            Kick::Polled | Kick::Unset | Kick::Given => None,
        };
        let setup = RingSetup {
            size: ring.size,
            desc,
            avail,
            used,
            base: ring.base,
            kick,
            call: again(ring.call.as_ref())?,
            err: again(ring.err.as_ref())?,
            map,
            features,
            inflight,
            log,
            log_used,
            enabled: ring.enabled.unwrap_or(by_itself),
            wce,
        };
        self.workers[index as usize].start(setup).map_err(|why| SessionError::Start { ring: index, why })?;
        self.ring(index)?.served = true;
        Ok(())
    }

    /// Ends a ring, and says where the next server goes on.
    fn halt(&mut self, state: VringState) -> Result<Answer, SessionError> {
        let index = state.index;
        self.ring(index)?;
        self.stop(index as usize);
        let ring = self.ring(index)?;
        let num = ring.base.into();
        // What it is told by is not always told again.
        let (call, err) = (ring.call.take(), ring.err.take());
        *ring = RingState { enabled: ring.enabled, size: ring.size, base: ring.base, call, err, ..RingState::NONE };
        Ok(VringState { index, num }.as_bytes().to_vec().into())
    }

    fn stop(&mut self, index: usize) {
        let ring = &mut self.rings[index];
        if std::mem::take(&mut ring.served)
            && let Some(next) = self.workers[index].halt()
        {
            ring.base = next;
        }
    }

    fn halt_all(&mut self) {
        (0..self.rings.len()).for_each(|index| self.stop(index));
    }

    /// As if the front-end had only set its memory.
    fn reset(&mut self) {
        self.halt_all();
        self.rings.fill_with(|| RingState::NONE);
        (self.features, self.log, self.records) = (0, None, None);
        self.wce.store(true, Ordering::Relaxed);
    }

    fn set_config(&mut self, head: ConfigHead, bytes: &[u8]) -> Result<(), SessionError> {
        let ConfigHead { offset, size, .. } = head;
        let at = CONFIG_WRITEBACK.checked_sub(offset).and_then(|at| bytes.get(at as usize));
        match at {
            Some(writeback) if self.offer.features.contains(Offered::CONFIG_WCE) => {
                self.wce.store(*writeback & 1 != 0, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(SessionError::Config { offset, size }),
        }
    }

    /// Makes the records for a front-end that has none yet.
    fn new_records(&mut self, wanted: Inflight, bytes: usize) -> Result<Answer, SessionError> {
        let Inflight { queues, queue_size, .. } = wanted;
        let each = self.record_bytes(queues, queue_size)?;
        let mmap_size = (each * u64::from(queues)).next_multiple_of(4096);
        let fd = memfd::sealed(mmap_size)?;
        let region = self.memory.register(Backing::shared(fd.as_fd().try_clone_to_owned()?, 0, mmap_size)?)?;
        self.records = Some(Records { region, offset: 0, queues, queue_size });
        let told = Inflight { mmap_size, mmap_offset: 0, queues, queue_size, padding: 0 };
        Ok(Answer { payload: told.as_bytes()[..bytes.min(size_of::<Inflight>())].to_vec(), fd: Some(fd) })
    }

    /// Takes the records that an earlier server was given.
    fn set_records(&mut self, told: Inflight, fd: OwnedFd) -> Result<(), SessionError> {
        let Inflight { queues, queue_size, mmap_size, mmap_offset, .. } = told;
        let each = self.record_bytes(queues, queue_size)?;
        let wrong = SessionError::Records { queues, queue_size, bytes: mmap_size };
        if each * u64::from(queues) > mmap_size {
            return Err(wrong);
        }
        let (region, offset) = table::shared(self.memory, fd, mmap_offset, mmap_size)?;
        self.records = Some(Records { region, offset, queues, queue_size });
        Ok(())
    }

    fn record_bytes(&self, queues: u16, queue_size: u16) -> Result<u64, SessionError> {
        let fits = (1..=self.offer.queues).contains(&queues) && queue_size.is_power_of_two() && queue_size <= MAX_SIZE;
        let wrong = SessionError::Records { queues, queue_size, bytes: 0 };
        if fits { Ok(queue_bytes(queue_size)) } else { Err(wrong) }
    }

    /// Where a ring's requests in flight are recorded, if at all.
    fn records_of(&self, index: u32) -> Result<Option<InflightQueue>, SessionError> {
        let Some(records) = &self.records else { return Ok(None) };
        let Records { queues, queue_size, .. } = *records;
        let size = self.rings.get(index as usize).map_or(0, |ring| ring.size);
        let offset = records.offset + u64::from(index) * queue_bytes(queue_size);
        let fits = index < queues.into() && size <= queue_size;
        let queue = fits.then(|| InflightQueue::new(records.region.clone(), offset, size)).flatten();
        let bytes = records.region.len();
        // A ring that is not recorded would lose what is in flight with the server.
        queue.map(Some).ok_or(SessionError::Records { queues, queue_size, bytes })
    }
}

/// One more of what is told by, for the worker.
fn again(event: Option<&EventFd>) -> Result<Option<EventFd>, SessionError> {
    Ok(event.map(EventFd::duplicate).transpose()?)
}

impl Drop for Session<'_> {
    /// The rings of a front-end go with it, once what they have in flight has ended.
    fn drop(&mut self) {
        self.halt_all();
    }
}

#[cfg(test)]
mod tests;
