//! The command line, parsed.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
};

use clap::Parser;

use crate::terminal::{is_safe, shown};

/// Parses these arguments, or ends the program with what clap says of them.
pub(crate) fn parse<P: Parser>(arguments: impl IntoIterator<Item = OsString>) -> P {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let safe = arguments.iter().all(|argument| is_safe(&argument.to_string_lossy()));
    P::try_parse_from(arguments).unwrap_or_else(|error| {
        if error.use_stderr() && !safe && std::io::stderr().is_terminal() {
            // clap's message in colours quotes arguments as they are, and some come from names of files.
            let _ = write!(std::io::stderr(), "{}", shown(&error.render().to_string(), true));
            std::process::exit(error.exit_code());
        }
        error.exit()
    })
}
