//! The command line that reproduces a folder's runs.

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

use super::{
    SweepArgs,
    record::Record,
    summary::{ratios, variants},
};

/// Flags that the runs supply themselves, or that do not affect them.
const OMITTED: [&str; 3] = ["variants", "ratios", "format"];

/// The flags of this invocation, apart from the omitted ones, in the order of `--help`.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(Vec<Flag>);

#[derive(Clone, Debug)]
struct Flag {
    /// Without dashes.
    name: String,
    /// With its value, quoted for a shell.
    text: String,
    given: bool,
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Vec::new();
        for arg in SweepArgs::augment_args(Command::new("sweep")).get_arguments() {
            let id = arg.get_id().as_str();
            let (Some(name), Some(source)) = (arg.get_long(), matches.value_source(id)) else { continue };
            if OMITTED.contains(&id) {
                continue;
            }
            let given = source == ValueSource::CommandLine;
            let mut add = |text| flags.push(Flag { name: name.to_string(), text, given });
            if arg.get_action().takes_values() {
                let values = matches.get_raw(id).into_iter().flatten();
                values.for_each(|value| add(with_value(name, &value.to_string_lossy())));
            } else if given {
                add(format!("--{name}"));
            }
        }
        Ok(Self(flags))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Adds no flags: it reads those of the whole command.
impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl Flags {
    /// Adds a flag's default that depends on the model.
    pub(super) fn add_default(&mut self, name: &str, value: &str) {
        if self.0.iter().all(|flag| flag.name != name) {
            self.0.push(Flag { name: name.to_string(), text: with_value(name, value), given: false });
        }
    }

    /// The flags left at their defaults.
    pub(super) fn defaults(&self) -> String {
        self.texts(false).collect::<Vec<_>>().join(" ")
    }

    fn texts(&self, given: bool) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |flag| flag.given == given).map(|flag| &*flag.text)
    }

    /// The commands that reproduce `records`: one for each list of ratios, since variants can differ in theirs.
    pub(super) fn commands(&self, records: &[Record]) -> Vec<String> {
        let mut groups: Vec<(Vec<f64>, Vec<&str>)> = Vec::new();
        for variant in variants(records) {
            let ratios = ratios(records.iter().filter(|record| record.variant == variant));
            match groups.iter_mut().find(|group| group.0 == ratios) {
                Some(group) => group.1.push(variant),
                None => groups.push((ratios, vec![variant])),
            }
        }
        let command = |(ratios, variants): &(Vec<f64>, Vec<&str>)| {
            let ratios = ratios.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
            let runs = [with_value("variants", &variants.join(",")), with_value("ratios", &ratios)];
            let words = ["probeprune", "sweep"].into_iter().chain(self.texts(true));
            words.chain(runs.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
        };
        groups.iter().map(command).collect()
    }
}

/// A flag with a value; the equals sign keeps a leading dash from being read as another flag.
fn with_value(name: &str, value: &str) -> String {
    let between = if value.starts_with('-') { '=' } else { ' ' };
    format!("--{name}{between}{}", quoted(value))
}

/// One word of a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(with_value("text", "a/b-1.txt"), "--text a/b-1.txt");
        assert_eq!(with_value("text", "it's $HOME"), r"--text 'it'\''s $HOME'");
        assert_eq!(with_value("momentum", "-0.5"), "--momentum=-0.5");
        assert_eq!(with_value("text", ""), "--text ''");
    }
}
