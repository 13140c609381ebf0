//! Progress bars on standard error; indicatif hides them if that is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts to `total`, and vanishes when it is dropped or finished.
pub(crate) fn bar(what: &'static str, total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:12} {wide_bar} {pos}/{len} [{elapsed} < {eta}]")
        .expect("the template is well-formed");
    let bar = ProgressBar::new(total as u64).with_style(style).with_message(what);
    bar.tick();
    bar
}

/// A spinner for work of unknown length.
pub(crate) fn spinner(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{elapsed}]").expect("the template is well-formed");
    let bar = ProgressBar::no_length().with_style(style).with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
