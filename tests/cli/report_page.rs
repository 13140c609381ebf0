//! The page that `sweep` writes, as a reader uses it: its commands, and its charts in a browser.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    browser::{self, Page, Shape},
    stdout,
    sweep::{lines, sweep},
};

fn page(folder: &Path) -> String {
    fs::read_to_string(folder.join("report.html")).unwrap()
}

/// The commands on the page.
fn commands(page: &str) -> Vec<String> {
    let (_, rest) = page.split_once("<pre>").expect("commands");
    let (commands, _) = rest.split_once("</pre>").expect("their end");
    commands.lines().map(browser::unescape).collect()
}

#[cfg(unix)]
#[test]
fn its_commands_run_again_and_find_every_run() {
    use crate::PROGRAM;

    let folder = TempDir::new().unwrap();
    let out = folder.path().join("it's <new> & $HOME");
    let tuning = ["--momentum", "0.9", "--parallel-probe", "--skip-layers", "none", "--max-tokens", "256"];
    let both = ["--variants", "pp,pp+metric=flap,wanda-sp", "--ratios", "0.4,0.2"];
    let arguments = |variants: &[&'static str]| {
        let mut arguments = sweep(&out, &[variants, &tuning].concat());
        let at = arguments.iter().position(|argument| *argument == "--max-tokens").unwrap();
        arguments.drain(at..at + 2);
        arguments.into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    for variants in [&both[..], &["--methods", "random", "--ratios", "0.4"]] {
        stdout(arguments(variants).iter().map(String::as_str));
    }
    let before = lines(&out);
    let text = page(&out);
    let commands = commands(&text);
    assert_eq!(commands.len(), 2, "random has other ratios: {commands:?}");
    let path = format!("{}:/usr/bin:/bin", Path::new(PROGRAM).parent().unwrap().display());
    let shell = |command: &str| {
        let mut shell = assert_cmd::Command::new("sh");
        shell.args(["-c", command]).env("PATH", &path).assert().success()
    };
    for (command, runs) in commands.iter().zip(["6 of 6", "1 of 1"]) {
        // A run is known by its settings, those of its folder included.
        shell(command).stderr(predicates::str::contains(format!("note: {runs} runs are in")));
    }
    assert_eq!(lines(&out), before);
    assert_eq!(page(&out), text, "no default became explicit");
    // Elsewhere, they measure the same.
    let other = folder.path().join("other");
    for command in &commands {
        let (start, end) = command.split_once("--out ").unwrap();
        let (_, end) = end.split_once(" --").unwrap();
        shell(&format!("{start}--out {} --{end}", other.display()));
    }
    let measured = |line: &Value| {
        let fields = ["key", "variant", "prune_ratio", "settings", "perplexity", "fingerprint"];
        fields.map(|field| line[field].clone())
    };
    let sorted = |folder: &Path| {
        let mut runs: Vec<_> = lines(folder).iter().map(measured).collect();
        runs.sort_by_key(|run| run[0].to_string());
        runs
    };
    assert_eq!(sorted(&other), sorted(&out));
}

#[test]
fn it_names_the_flags_left_at_their_defaults() {
    let folder = TempDir::new().unwrap();
    let args = ["--variants", "random", "--ratios", "0.4", "--probe-tokens", "0.25"];
    stdout(sweep(folder.path(), &args));
    let text = page(folder.path());
    let (_, defaults) = text.split_once("<dt>defaults</dt><dd>").unwrap();
    let (defaults, _) = defaults.split_once("</dd>").unwrap();
    for flag in ["--metric ppsp", "--round-channels 64", "--momentum 0.99", "--skip-layers 0,1,2"] {
        assert!(defaults.contains(flag), "{flag}: {defaults}");
    }
    for other in ["--probe-tokens", "--seq-len", "--format", "--variants"] {
        assert!(!defaults.contains(other), "{other}: {defaults}");
    }
    let [command] = &commands(&text)[..] else { panic!("one command") };
    assert!(command.starts_with("probeprune sweep --model bundled:tiny-llama --text "), "{command}");
    assert!(command.contains(" --probe-tokens 0.25 ") && !command.contains("--momentum"), "{command}");
    assert!(command.ends_with(" --variants random --ratios 0.4"), "{command}");
    assert!(!text.contains("Settings {"), "no debug output");
}

/// The charts of a page, and the places of those already checked.
struct Charts<'a> {
    page: &'a Page,
    seen: Vec<usize>,
}

impl<'a> Charts<'a> {
    /// The chart with this title; checks that all its shapes lie inside it.
    fn titled(&mut self, title: &str) -> &'a [Shape] {
        let has_title = |chart: &Vec<Shape>| {
            chart.iter().any(|shape| shape.tag == "text" && shape.text.trim().starts_with(title))
        };
        let at = self.page.charts.iter().position(has_title).unwrap_or_else(|| panic!("no chart {title:?}"));
        self.seen.push(at);
        let chart = &self.page.charts[at];
        for shape in chart {
            assert!(shape.inside, "{title}: outside: {shape:?}");
            assert!(shape.tag != "text" || shape.size[0] > 0.0 && shape.size[1] > 0.0, "{title}: {shape:?}");
        }
        chart
    }

    fn colour(&self, name: &str) -> &'a str {
        let entry = self.page.legend.iter().find(|entry| entry.0 == name);
        &entry.unwrap_or_else(|| panic!("{name} is not in the legend")).1
    }
}

/// Visible shapes of a colour: lines by their stroke, all others by what fills them.
fn count(chart: &[Shape], tag: &str, colour: &str, points: impl Fn(usize) -> bool) -> usize {
    let visible = chart.iter().filter(|shape| shape.size[0] + shape.size[1] > 0.0);
    let painted = visible.filter(|shape| {
        let paint = if matches!(tag, "polyline" | "line") { &shape.stroke } else { &shape.fill };
        shape.tag == tag && paint == colour && points(shape.points)
    });
    painted.count()
}

#[test]
fn a_browser_draws_every_mark_of_its_charts() {
    let folder = TempDir::new().unwrap();
    let (variants, ratios) = (["pp", "pp+metric=flap", "wanda-sp", "random"], [0.2, 0.3, 0.4, 0.6]);
    stdout(sweep(folder.path(), &["--variants", &variants.join(","), "--ratios", "0.2,0.3,0.4,0.6"]));
    let html = page(folder.path());
    let Some(page) = browser::open(&html) else { return };
    assert_eq!(page.failures, [""; 0]);
    assert_eq!(page.commands.lines().collect::<Vec<_>>(), commands(&html), "as copied from the page");

    let lines = lines(folder.path());
    let runs = &lines[1..];
    let of = |variant: &str, ratio: f64| {
        let same = |run: &&Value| run["variant"] == variant && run["prune_ratio"] == ratio;
        runs.iter().find(same).unwrap()
    };
    let mut charts = Charts { page: &page, seen: Vec::new() };

    let chart = charts.titled("Perplexity and time");
    for variant in variants {
        let colour = charts.colour(variant);
        assert_eq!(count(chart, "polyline", colour, |points| points == 1 + ratios.len()), 1, "{variant}");
        // One shape for each ratio, in the order of the legend; a cross is two lines.
        for (shape, shapes) in [("circle", 1), ("polygon", 1), ("rect", 1), ("line", 2)] {
            assert_eq!(count(chart, shape, colour, |_| true), shapes, "{variant}: {shape}");
        }
        // Quartiles close together are a line of no length.
        let quartiles = chart.iter().filter(|shape| shape.points == 2 && shape.stroke == colour);
        assert_eq!(quartiles.count(), ratios.len(), "{variant}");
    }

    let chart = charts.titled("Time by part");
    let parts = [0, 1].map(|part| runs.iter().filter_map(|run| run["parts"].get(part)).collect::<Vec<_>>());
    assert_eq!(parts.each_ref().map(Vec::len), [16, 8], "static methods have no choice");
    for parts in parts {
        let colour = charts.colour(parts[0]["name"].as_str().unwrap());
        // A part of almost no time is a bar of no width.
        let bars = chart.iter().filter(|shape| shape.tag == "rect" && shape.fill == colour);
        assert_eq!(bars.count(), parts.len());
    }

    for ratio in ratios {
        for (unit, name) in ["heads", "channels"].iter().enumerate() {
            let chart = charts.titled(&format!("{name} kept at {:.0} %", 100.0 * ratio));
            for variant in variants {
                let layers = of(variant, ratio)["layers"].as_array().unwrap();
                let overlaps = layers.iter().filter(|layer| !layer["overlap"][unit].is_null()).count();
                let drawn = count(chart, "polyline", charts.colour(variant), |points| points == overlaps);
                assert_eq!(drawn, usize::from(variant.starts_with("pp")), "{name}, {variant}: {overlaps}");
            }
            let chart = charts.titled(&format!("scores of {name} at {:.0} %", 100.0 * ratio));
            for variant in variants {
                let counts = &of(variant, ratio)["histograms"][unit]["counts"];
                let bins = counts.as_array().map_or(0, Vec::len);
                let drawn = count(chart, "polyline", charts.colour(variant), |points| points == 2 * bins);
                assert_eq!(drawn, usize::from(variant != "random"), "{name}, {variant}: {bins} bins");
            }
        }
    }
    charts.seen.sort_unstable();
    assert_eq!(charts.seen, (0..page.charts.len()).collect::<Vec<_>>(), "every chart is checked once");
}

#[test]
fn a_browser_notices_failures() {
    let html = "<html><head></head><body><script>missing()</script><script>)</script><img src='no.png'>
        <script>Promise.reject('refused'); console.error('logged')</script></body></html>";
    let Some(page) = browser::open(html) else { return };
    let mut failures = page.failures.join("\n");
    for failure in ["missing is not defined", "SyntaxError", "no.png", "refused", "logged"] {
        assert!(failures.contains(failure), "{failure}: {failures}");
        failures = failures.replacen(failure, "", 1);
    }
    assert_eq!(page.failures.len(), 5);
}
