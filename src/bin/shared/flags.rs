//! The library's errors name settings; a user of the programs has flags.

use probeprune::Error;

/// The settings that errors may name.
const SETTINGS: &[&str] = &[
    "adapt",
    "adapt_every",
    "adapt_forgetting",
    "adapt_metric",
    "adapt_prior_tokens",
    "adapt_threshold",
    "allocation",
    "batch_size",
    "calibration",
    "channel_group",
    "compensate",
    "dense_below",
    "device",
    "fixed_probe_weight",
    "flap_attention_factor",
    "fold_choice",
    "history_bucket",
    "history_dtype",
    "linear_rank",
    "max_new_tokens",
    "max_tokens",
    "method",
    "metric",
    "momentum",
    "parallel_probe",
    "prefill",
    "prior_tokens",
    "probe_from",
    "probe_order",
    "probe_samples",
    "probe_tokens",
    "prompt_tokens",
    "prune_ratio",
    "reprobe_every",
    "round_channels",
    "seed",
    "seq_len",
    "skip_layers",
    "temperature",
    "threads",
    "top_k",
    "top_p",
    "warmup_batches",
];

/// The flag of a setting.
fn flag(setting: &str) -> String {
    match setting {
        "calibration" => "--history, --calibrate-text or --calibrate-tokens".to_string(),
        "linear_rank" => "--compensate linear:RANK".to_string(),
        _ => format!("--{}", setting.replace('_', "-")),
    }
}

/// The error's message, with flags instead of settings: those in backticks, and the first word of an argument's name.
pub(crate) fn message(error: &Error) -> String {
    let text = error.to_string();
    let (name, rest) = match error {
        // The name of a calibration's own faults, whichever flag it came from.
        Error::Argument { name, .. } if name != "calibration" => text.split_at(name.len()),
        _ => ("", &*text),
    };
    let (setting, value) = name.split_at(name.find(' ').unwrap_or(name.len()));
    let setting = if SETTINGS.contains(&setting) { flag(setting) } else { setting.to_string() };
    SETTINGS.iter().fold(format!("{setting}{value}{rest}"), |message, setting| {
        message.replace(&format!("`{setting}`"), &flag(setting))
    })
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};
    use probeprune::{prune::settings::Settings, session::GenerateOptions};

    use super::*;
    use crate::args::{DataArgs, MethodArgs, ModelArgs};

    #[test]
    fn settings_become_flags_where_a_message_names_them() {
        let with_value =
            Error::argument("compensate linear:9", "`method` pp", "`flap`", "Run `probeprune calibrate`.");
        let text = "--compensate linear:9: expected --method pp, got `flap`. Run `probeprune calibrate`.";
        assert_eq!(message(&with_value), text);
        let history = Error::argument("calibration", "one with seeds", "seed", "Pass `calibration`.");
        let help = "Pass --history, --calibrate-text or --calibrate-tokens.";
        assert_eq!(message(&history), format!("calibration: expected one with seeds, got seed. {help}"));
        let device = Error::device("cuda", "device", "a GPU", "none", "Use the CPU (`device` cpu).");
        assert_eq!(message(&device), "cuda: device: expected a GPU, got none. Use the CPU (--device cpu).");
        assert!(
            message(&Error::argument("linear_rank", "9", 10, "")).starts_with("--compensate linear:RANK: ")
        );
        assert!(message(&Error::argument("prompt 1", "text", "none", "")).starts_with("prompt 1: "));
    }

    /// The names of all fields in a struct's `Debug`, those of structs within it too.
    fn fields(debug: &str) -> Vec<String> {
        let names = debug.split(&['{', ',', ' ']).filter_map(|word| word.strip_suffix(':'));
        names.map(str::to_string).collect()
    }

    #[test]
    fn every_setting_has_a_flag() {
        let all = fields(&format!("{:?} {:?}", Settings::default(), GenerateOptions::default()));
        assert!(all.len() > 20, "{all:?}");
        for name in all {
            match &*name {
                // Structs, whose fields are settings, and the model's tokens.
                "history_layout" | "sampling" | "eos_token_ids" | "mode" => {}
                "dtype" | "bucket" => assert!(SETTINGS.contains(&&*format!("history_{name}"))),
                "forgetting" | "every" | "threshold" => {
                    assert!(SETTINGS.contains(&&*format!("adapt_{name}")))
                }
                _ => assert!(SETTINGS.contains(&&*name), "{name}"),
            }
        }
    }

    #[test]
    fn every_flag_of_the_method_has_a_setting() {
        let command = MethodArgs::augment_args(Command::new(""));
        for argument in command.get_arguments() {
            let name = argument.get_long().expect("a flag");
            assert!(SETTINGS.contains(&&*name.replace('-', "_")), "{name}");
        }
        let rest = ModelArgs::augment_args(DataArgs::augment_args(Command::new("")));
        for setting in ["device", "threads", "seq_len", "max_tokens"] {
            let name = setting.replace('_', "-");
            assert!(rest.get_arguments().any(|argument| argument.get_long() == Some(&name)), "{setting}");
        }
    }
}
