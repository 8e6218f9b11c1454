// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file driver against real files. What this machine cannot make is skipped with a line that says so.

mod conformance;
mod faults;
mod opening;
mod page_less;
mod poison;
mod rig;
mod routes;
mod zeroes;
