//! What the GPU's clocks, power and temperature are, by nvidia-smi.

use std::process::Command;

use serde_json::{Value, json};

/// Of the first GPU, now: MHz, watts and degrees Celsius; null where there is no nvidia-smi, or it does not know.
pub fn now() -> Value {
    let asked = Command::new("nvidia-smi")
        .args(["--id=0", "--format=csv,noheader,nounits"])
        .arg("--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu")
        .output();
    let Some(said) = asked.ok().filter(|said| said.status.success()) else { return Value::Null };
    let numbers: Vec<Option<f64>> =
        String::from_utf8_lossy(&said.stdout).split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers[..] {
        [sm, memory, power, temperature] => {
            json!({ "sm_mhz": sm, "memory_mhz": memory, "power_w": power, "temperature_c": temperature })
        }
        _ => Value::Null,
    }
}
