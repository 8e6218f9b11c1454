// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other side of every contract, for tests only.
//!
//! # Words
//! The *model* is a disk that cannot be wrong because it does nothing but remember bytes. A *step* is something the
//! conformance test does to a device and to the model alike.
//!
//! # Flow
//! A test makes memory of some kind ([`regions`]), puts a device on it, perhaps behind [`faults`] or tighter limits
//! ([`narrow`]), and hands it to [`conformance()`]. What the host does not have is skipped, visibly ([`mod@require`]).
//!
//! # Types
//! * [`conformance()`] runs random steps against a [`ModelDisk`] and shrinks what fails.
//! * [`Faulty`] makes a device fail, delay, refuse; [`Narrow`] makes it take less at once.
//! * [`Explorer`](crash::Explorer) cuts the power of a device at every store, and looks what recovery makes of it.
//! * [`FakeFunction`] is a PCI function that can be pulled out.
//! * [`Blocking`] does one bio at a time, [`TestFrames`] is memory with bytes in it, [`TestRegion`] a region of a kind.
//!
//! # What it is not
//! Nothing that is shipped depends on it. It measures nothing.
#![forbid(unsafe_code)]

pub mod blocking;
pub mod conformance;
pub mod crash;
mod error;
pub mod fake_pci;
pub mod faults;
pub mod frames;
pub mod front_end;
pub mod model_disk;
pub mod narrow;
pub mod regions;
pub mod require;

pub use blocking::Blocking;
pub use conformance::{Config, conformance};
pub use error::Error;
pub use fake_pci::FakeFunction;
pub use faults::{Fault, Faulty, What};
pub use frames::TestFrames;
pub use front_end::FrontEnd;
pub use model_disk::ModelDisk;
pub use narrow::Narrow;
pub use regions::TestRegion;
pub use require::require;
