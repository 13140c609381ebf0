//! The command line, parsed.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
};

use clap::Parser;

use crate::terminal::shown;

/// Parses these arguments, or ends the program with what clap says of them.
pub(crate) fn parse<P: Parser>(arguments: impl IntoIterator<Item = OsString>) -> P {
    P::try_parse_from(arguments).unwrap_or_else(|error| {
        let plain = error.render().to_string();
        // An argument may come from a file's name. clap's colours are for messages that hold nothing else of the kind.
        if let (true, std::borrow::Cow::Owned(safe)) =
            (error.use_stderr(), shown(&plain, std::io::stderr().is_terminal()))
        {
            let _ = write!(std::io::stderr(), "{safe}");
            std::process::exit(error.exit_code());
        }
        error.exit()
    })
}
