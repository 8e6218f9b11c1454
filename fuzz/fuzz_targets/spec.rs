// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any text is a spec or is refused: no panic, errors point inside the text, specs show what parses to them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pageless::spec::{Listen, Spec};

fuzz_target!(|text: &str| {
    match text.parse::<Spec>() {
        Ok(spec) => {
            let shown = spec.to_string();
            assert_eq!(shown.parse::<Spec>(), Ok(spec), "shown as {shown:?}");
        }
        Err(error) => {
            assert!(text.get(error.at()).is_some());
            assert_eq!(error.to_string().lines().count(), 4);
        }
    }
    match text.parse::<Listen>() {
        Ok(listen) => assert_eq!(listen.to_string().parse::<Listen>(), Ok(listen)),
        Err(error) => assert!(text.get(error.at()).is_some()),
    }
});
