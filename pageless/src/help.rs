// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless help`: a command's help, or the page about specs, which is written from the table the parser uses.

use std::fmt::Write as _;

use clap::CommandFactory as _;
use pageless::spec::{About, KINDS};

use crate::cli::Cli;
use crate::failure::Failure;

/// The text for `pageless help TOPIC…`.
pub(crate) fn text(topic: &[String]) -> Result<String, Failure> {
    if topic == ["specs"] {
        return Ok(specs());
    }
    // Building fills in the usage lines and the inherited settings of subcommands.
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in topic {
        let names: Vec<_> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        command =
            command.find_subcommand_mut(word).ok_or_else(|| Failure::NoTopic { word: word.clone(), known: names })?;
    }
    Ok(command.render_help().to_string())
}

fn specs() -> String {
    let mut page = String::from(
        "A spec names memory or a device: KIND:WHERE[,key=value…]\n\n\
         Memory, which is also a disk wherever a disk is wanted:\n",
    );
    let rows = |page: &mut String, memory: bool| {
        for About { form, example, what, .. } in KINDS.iter().filter(|k| k.kind.is_memory() == memory) {
            let _ = writeln!(page, "  {form:<26}{example}\n  {:<26}{what}", "");
        }
    };
    rows(&mut page, true);
    page.push_str("\nDevices:\n");
    rows(&mut page, false);
    page.push_str(
        "\nSIZE is a whole number with K, M, G or T (binary): 4096, 64K, 16M, 1G, 2T.\n\
         size= makes a file that does not exist, sparse; one that exists must have that size already.\n\
         The first comma ends WHERE: a comma that belongs to a path is written twice (file:/data/a,,b.img).\n",
    );
    page
}
