//! Tables, logs and music: texts in columns, lines and bars.

use super::draw::Draw;

const PARTS: [&str; 16] = [
    "bolt", "screw", "washer", "gear", "spring", "valve", "pump", "hinge", "bracket", "motor", "nozzle",
    "piston", "cable", "fuse", "switch", "gasket",
];
const SHELVES: [&str; 6] = ["north", "south", "east", "west", "upper", "lower"];

/// A stock table: stock left = received − issued. Rows are ordered by the amount received.
pub(super) fn table(draw: &mut Draw) -> String {
    let rows = draw.range(3, 6);
    let mut stock: Vec<usize> = (0..rows).map(|_| draw.range(1, 9)).collect();
    stock.sort_unstable();
    let mut s = String::from("| part | shelf | in | out | left |\n| --- | --- | --- | --- | --- |\n");
    for (part, came) in draw.several(&PARTS, rows).into_iter().zip(stock) {
        let out = draw.below(came + 1);
        s += &format!("| {part} | {} | {came} | {out} | {} |\n", draw.pick(&SHELVES), came - out);
    }
    s
}

const SERVICES: [(&str, &[&str]); 6] = [
    ("kernel", &["irq handler registered", "cpu throttled", "memory pressure"]),
    ("sshd", &["session opened", "session closed", "publickey accepted"]),
    ("nginx", &["upstream timed out", "request served", "worker started"]),
    ("postgres", &["checkpoint complete", "vacuum finished", "deadlock detected"]),
    ("docker", &["container created", "image pulled", "network attached"]),
    ("cron", &["job launched", "job finished", "job skipped"]),
];

/// One host's log: seconds go by, and a failing service retries, counting, until it recovers.
pub(super) fn log(draw: &mut Draw) -> String {
    let mut now = draw.below(23 * 3600);
    let mut s = String::new();
    let mut line = |draw: &mut Draw, level: &str, service: &str, event: &str| {
        now += draw.range(1, 5);
        s += &format!("{:02}:{:02}:{:02} {level} {service}: {event}\n", now / 3600, now / 60 % 60, now % 60);
    };
    for _ in 0..draw.range(2, 3) {
        let (service, events) = draw.pick(&SERVICES);
        if draw.one_in(2) {
            line(draw, "ERROR", service, "connection lost");
            let attempts = draw.range(1, 4);
            for attempt in 1..=attempts {
                line(draw, "WARN", service, &format!("retry #{attempt}"));
            }
            line(draw, "INFO", service, "connection restored");
        } else {
            for _ in 0..2 {
                let event = draw.pick(events);
                line(draw, "INFO", service, event);
            }
        }
    }
    s
}

const NOTES: [&str; 7] = ["do", "re", "mi", "fa", "sol", "la", "ti"];

/// A tune that moves by small steps. A note lasts one beat (`.`), two (`-`), three (`~`) or four (`=`);
/// bars of four beats end with `/`, and the tune ends where it began.
pub(super) fn music(draw: &mut Draw) -> String {
    let home = draw.below(NOTES.len());
    let mut at = home;
    let mut s = format!("tempo {} {}\n", draw.pick(&["largo", "andante", "allegro", "presto"]), NOTES[home]);
    for _ in 0..draw.range(2, 3) {
        for _ in 0..3 {
            let mut beats = 4;
            while beats > 0 {
                let length = draw.range(1, beats);
                beats -= length;
                s += &format!("{}{} ", NOTES[at], [".", "-", "~", "="][length - 1]);
                at = (at + draw.pick(&[1, 1, 2, NOTES.len() - 1, NOTES.len() - 1, 0])) % NOTES.len();
            }
            s.push_str("/ ");
        }
        s.pop();
        s.push('\n');
    }
    s + &format!("{}= //\n", NOTES[home])
}
