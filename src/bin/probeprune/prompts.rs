//! Prompts on the command line, which may begin with a dash.

use std::ffi::OsString;

/// `--prompt A B` as `--prompt=A --prompt=B`, so that a prompt such as `- item` is no flag. Words like `--flag` and `-h` are
/// flags, mistyped ones among them, and end the prompts; `--prompt=--flag` passes such a text.
pub(crate) fn attached(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut attached: Vec<OsString> = Vec::new();
    // Whether a value may follow, and whether one has.
    let (mut after, mut any) = (false, false);
    for word in arguments {
        if after && !is_flag(&word.to_string_lossy()) {
            if !any {
                attached.pop();
            }
            any = true;
            attached.push([OsString::from("--prompt="), word].into_iter().collect());
            continue;
        }
        (after, any) = (word == "--prompt", false);
        attached.push(word);
    }
    attached
}

fn is_flag(word: &str) -> bool {
    let name = word.strip_prefix("--").map(|rest| rest.split_once('=').map_or(rest, |(name, _)| name));
    let named = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    ["-h", "-V", "--"].contains(&word) || name.is_some_and(|name| !name.starts_with('-') && named(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        let attached = attached(line.iter().map(OsString::from));
        attached.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn prompts_may_begin_with_a_dash() {
        assert_eq!(
            words(&["generate", "--prompt", "- item", "--chat"]),
            ["generate", "--prompt=- item", "--chat"]
        );
        assert_eq!(
            words(&["--prompt", "a", "-x", "", "--", "b"]),
            ["--prompt=a", "--prompt=-x", "--prompt=", "--", "b"]
        );
        for text in ["--- rule", "-- quoted", "---", "-1", "--Bold", "--it's"] {
            assert_eq!(words(&["--prompt", text]), [format!("--prompt={text}")]);
        }
    }

    #[test]
    fn flags_are_no_prompts() {
        for flag in ["--max-new-tokens", "--max-new-tokens=5", "--mistyped", "-h", "-V", "--"] {
            assert_eq!(words(&["--prompt", flag, "5"]), ["--prompt", flag, "5"]);
            assert_eq!(words(&["--prompt", "a", flag]), ["--prompt=a", flag]);
        }
        assert_eq!(
            words(&["--prompt=x", "-y", "--prompt-file", "-z"]),
            ["--prompt=x", "-y", "--prompt-file", "-z"]
        );
        assert_eq!(words(&["--prompt", "--prompt", "-a"]), ["--prompt", "--prompt=-a"]);
    }
}
