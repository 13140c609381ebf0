//! Pages in headless Chromium: drawn shapes, and failures of scripts.
//!
//! The browser is `PROBEPRUNE_CHROMIUM`, which must start, or else the first of [`NAMES`] in `PATH`.

use std::{env, ffi::OsString, fs, io::Write, time::Duration};

use assert_cmd::Command;
use serde::Deserialize;

const NAMES: [&str; 5] =
    ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome"];

/// Records failures; before all other scripts.
const LISTEN: &str = "<script>
const failures = [];
addEventListener('error', event => failures.push(event.message || event.target.outerHTML), true);
addEventListener('unhandledrejection', event => failures.push(String(event.reason)));
console.error = (...values) => failures.push(values.join(' '));
</script>";

/// Replaces the loaded page by its shapes and failures as JSON, after the events of unhandled rejections.
const COLLECT: &str = "<script>
addEventListener('load', () => setTimeout(() => {
    const shape = frame => element => {
        const style = getComputedStyle(element), box = element.getBoundingClientRect();
        return {
            tag: element.tagName, fill: style.fill, stroke: style.stroke, text: element.textContent,
            points: element.points?.length ?? 0, size: [box.width, box.height],
            inside: box.left >= frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom,
        };
    };
    const charts = [...document.querySelectorAll('svg')].map(svg =>
        [...svg.querySelectorAll('*')].map(shape(svg.getBoundingClientRect())));
    const entry = item => [item.textContent, getComputedStyle(item.firstElementChild).backgroundColor];
    const legend = [...document.querySelectorAll('.key li:has(span)')].map(entry);
    const commands = document.querySelector('pre')?.innerText ?? '';
    document.documentElement.textContent = JSON.stringify({ failures, charts, legend, commands });
}));
</script>";

/// A loaded page.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    /// Messages of uncaught exceptions, files that did not load, and console errors.
    pub(crate) failures: Vec<String>,
    /// The elements of every SVG.
    pub(crate) charts: Vec<Vec<Shape>>,
    /// Names and colours, as CSS computes them.
    pub(crate) legend: Vec<(String, String)>,
    /// The text of the first `pre`, as copied from the page.
    pub(crate) commands: String,
}

/// An SVG element as drawn.
#[derive(Debug, Deserialize)]
pub(crate) struct Shape {
    pub(crate) tag: String,
    pub(crate) fill: String,
    pub(crate) stroke: String,
    pub(crate) text: String,
    /// Of a polyline or a polygon.
    pub(crate) points: usize,
    /// Width and height in pixels, without the stroke.
    pub(crate) size: [f64; 2],
    /// Whether it lies inside its chart.
    pub(crate) inside: bool,
}

/// Opens a page; `None` on a machine without a browser, with the reason on standard error.
pub(crate) fn open(html: &str) -> Option<Page> {
    let Some(program) = program() else {
        // Not eprintln: the reason shows even though the test passes.
        let names = NAMES.join(", ");
        let _ =
            writeln!(std::io::stderr(), "not run: PROBEPRUNE_CHROMIUM is not set, and no {names} in PATH");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    let (head, rest) = html.split_once("<head>").expect("a head");
    let (body, end) = rest.rsplit_once("</body>").expect("a body");
    fs::write(&file, format!("{head}<head>{LISTEN}{body}{COLLECT}</body>{end}")).unwrap();
    let output = Command::new(&program)
        // The sandbox does not start as root, and the page is our own.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .timeout(Duration::from_secs(120))
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
    let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {}\n{log}", program.display(), output.status);
    let json = dom.find('{').zip(dom.rfind('}')).map(|(start, end)| unescape(&dom[start..=end]));
    let json = json.unwrap_or_else(|| panic!("no JSON in {dom:?}\n{log}"));
    Some(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}")))
}

fn program() -> Option<OsString> {
    env::var_os("PROBEPRUNE_CHROMIUM").or_else(|| {
        let folders: Vec<_> = env::split_paths(&env::var_os("PATH")?).collect();
        let files = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        files.into_iter().find(|file| file.is_file()).map(Into::into)
    })
}

/// The text of HTML with escaped characters.
pub(crate) fn unescape(html: &str) -> String {
    html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}
