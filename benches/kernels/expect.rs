//! Prints the analytic model's expectation of every goal.

use crate::{
    goals::{GOALS, joined},
    peers::Trouble,
    predict::{self, machine::Machine},
};

/// One line for each row, and one for each of our runs in it.
pub fn print(machine: &'static Machine) {
    println!("analytic model of {}: expected, not measured", machine.called);
    println!(
        "{:>3}  {:<88} {:<20} {:<16} time: memory, FLOPs, L2, waves and latency, gaps",
        "row", "ratio", "expected", "goal"
    );
    for goal in &GOALS {
        match predict::row(machine, goal.number) {
            Ok(prediction) => {
                let (expected, target) = (joined(&prediction.values()), joined(goal.target));
                println!("{:>3}  {:<88} {expected:<20} {target}", goal.number, goal.what);
                for (kernels, split) in &prediction.runs {
                    let seconds = split.seconds();
                    let shares = [split.memory, split.tensor, split.l2, split.waves, split.gaps]
                        .map(|part| format!("{:>3.0} %", 100.0 * part / seconds));
                    println!(
                        "     {:>12.1} µs, {:>4} launches from {:<24} {}",
                        1e6 * seconds,
                        split.launches,
                        kernels[0],
                        shares.join("  ")
                    );
                }
            }
            Err(Trouble::Missing(why)) => println!("{:>3}  {:<88} {why}", goal.number, goal.what),
            Err(Trouble::Failed(error)) => println!("{:>3}  {:<88} {error}", goal.number, goal.what),
        }
    }
}
