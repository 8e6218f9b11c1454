// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is printed where: results on stdout, everything else on stderr.

use std::io::Write as _;
use std::sync::mpsc::Receiver;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pageless::drivers::btt::Trouble;
use pageless::open::Opened;
use serde::Serialize;

use crate::failure::Failure;

/// Prints to stdout at once, also where that is a pipe.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Prints to stderr, which may be gone.
pub(crate) fn aside(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints one JSON object and a newline.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))?;
    text(&format!("{line}\n"))
}

/// Tells what should be known about what was opened.
pub(crate) fn notes(opened: &[&Opened]) {
    for opened in opened {
        for note in &opened.notes {
            aside(&format!("pageless: {}: {note}\n", opened.name));
        }
    }
}

/// Tells what was found wrong since it was opened.
pub(crate) fn troubles(opened: &[&Opened]) {
    for opened in opened {
        for found in opened.troubles.iter().flat_map(Receiver::try_iter) {
            trouble(&opened.name, found);
        }
    }
}

/// Tells what was found wrong with a device in use.
pub(crate) fn trouble(name: &str, trouble: Trouble) {
    aside(&format!("pageless: {name}: {trouble}\n"));
}

/// A progress bar on stderr if that is a terminal, else nothing.
pub(crate) fn progress(doing: &'static str, bytes: u64, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target).with_message(doing);
    match ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
