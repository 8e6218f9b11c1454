// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's door: every system call, `ioctl` and signal the project uses, and no policy.
//!
//! # Words
//! A *mapping* is a run of our own virtual addresses backed by the kernel. An *errno* is the kernel's reason for a
//! refusal, kept as a number and shown by name.
//!
//! # Flow
//! [`memfd`], [`dmabuf`], [`vfio`] and [`mod@file`] make descriptors, [`mmap`] maps them, [`uring`] and [`socket`] move
//! bytes between them and addresses, [`epoll`], [`eventfd`] and [`signal`] tell when, [`fault`] turns a fault inside a listed routine into a
//! return value, [`cpu`] says what the processor can do.
//!
//! # What it is not
//! It never retries, never logs and knows no frame, region or request. Functions that take an address are `unsafe`:
//! whoever calls them (only `pageless-mem`) proves that the memory outlives the call.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("pageless runs on Linux on x86-64: its copy routines and fault table are written for it");

pub mod cpu;
pub mod dmabuf;
pub mod epoll;
mod errno;
mod error;
pub mod eventfd;
pub mod fault;
pub mod fiemap;
pub mod file;
pub mod fork;
pub mod limits;
pub mod lock;
pub mod memfd;
pub mod mmap;
pub mod pagemap;
pub mod pci;
pub mod perf;
pub mod process;
pub mod scm;
pub mod signal;
pub mod socket;
pub mod uring;
pub mod userfault;
pub mod vfio;

pub use errno::Errno;
pub use error::Error;
