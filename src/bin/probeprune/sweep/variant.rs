//! The variants of a sweep: named settings.

use std::str::FromStr;

use clap::{
    ArgAction, Args, Command, FromArgMatches,
    builder::{Resettable, ValueParser},
};
use probeprune::{
    Error,
    config::ModelConfig,
    prune::settings::{Method, Settings},
};

use crate::{args::MethodArgs, failure::Result, flags};

/// `METHOD`, or `METHOD+FLAG=VALUE+…` with any method flag of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    /// As written on the command line.
    pub(super) label: String,
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let method = text.split('+').next().unwrap_or_default();
        let method = method.parse::<Method>().map_err(|error| match error {
            Error::Argument { expected, .. } => format!("expected {expected} before any +"),
            error => flags::message(&error),
        })?;
        if method == Method::None {
            return Err("the dense model is always measured".into());
        }
        Ok(Self { label: text.to_string() })
    }
}

impl Variant {
    /// Its settings at `ratio`; `base` gives the flags that it leaves out.
    pub(super) fn settings(&self, base: &MethodArgs, ratio: f64, config: &ModelConfig) -> Result<Settings> {
        if ratio <= 0.0 {
            let help = "The dense model is always measured.";
            return Err(Error::argument("--ratios", "numbers above 0 and below 1", ratio, help).into());
        }
        let (method, flags) = self.label.split_once('+').map_or((&*self.label, None), |(m, f)| (m, Some(f)));
        let method = format!("--method={method}");
        let flags = flags.into_iter().flat_map(|flags| flags.split('+')).map(|flag| format!("--{flag}"));
        let words = [method].into_iter().chain(flags).chain([format!("--prune-ratio={ratio}")]);
        let mut args = base.clone();
        let parsed = overrides().try_get_matches_from(words);
        parsed.and_then(|matches| args.update_from_arg_matches(&matches)).map_err(|error| {
            // One line of clap's message, without its advice on usage.
            let text = error.to_string();
            let said = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = "METHOD or METHOD+FLAG=VALUE+…, such as pp+probe-tokens=0.25";
            let help = "FLAG is a method flag of `probeprune sweep --help`, without dashes.";
            Error::argument("--variants", expected, format!("{:?}: {said}", self.label), help)
        })?;
        args.settings(config)
    }
}

/// The method flags without their defaults, so that only the given ones change.
fn overrides() -> Command {
    let command = MethodArgs::augment_args_for_update(Command::new("variant"))
        .no_binary_name(true)
        .disable_help_flag(true);
    command.mut_args(|arg| {
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            // As a switch it would be off wherever it is left out.
            return arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(ValueParser::bool());
        }
        arg.default_value(Resettable::Reset)
    })
}
