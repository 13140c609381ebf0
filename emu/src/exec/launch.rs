//! Launching a kernel.

use super::machine::Machine;
use crate::{
    Completion, Counters, Device, Module, Policy, Settings,
    args::Args,
    error::{Error, Result},
    mem::space::SHARED_LIMIT,
    ptx::ast::Space,
    schedule::Rng,
};

/// Geometry of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Launch {
    /// A one-dimensional launch.
    pub fn linear(blocks: u32, threads: u32, shared: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared }
    }
}

impl Device {
    /// Runs a kernel to its end. On a fault, memory is left as it was at that moment.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        launch: Launch,
        args: &Args,
        settings: &Settings,
    ) -> Result<Counters> {
        let k = module.kernel(kernel)?;
        let fail =
            |what: &str, expected: String, got: String| Err(Error::launch(kernel, what, expected, got));
        let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
        if threads == 0 || threads > 1024 || launch.block[2] > 64 {
            return fail(
                "block",
                "1 to 1024 threads, at most 64 in z".to_owned(),
                format!("{:?}", launch.block),
            );
        }
        if let Some(max) = k.max_threads
            && threads > max
        {
            return fail(
                "block",
                format!("at most {max} threads, by its launch bounds"),
                threads.to_string(),
            );
        }
        if let Some(req) = k.req_threads
            && req != launch.block
        {
            return fail("block", format!("{req:?}, as the kernel demands"), format!("{:?}", launch.block));
        }
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        if blocks == 0 || launch.grid[1] > 65_535 || launch.grid[2] > 65_535 || blocks > u64::from(u32::MAX) {
            return fail(
                "grid",
                "at least 1 block, at most 65535 in y and z".to_owned(),
                format!("{:?}", launch.grid),
            );
        }
        let shared = k.shared.dynamic + launch.shared as usize;
        if shared > SHARED_LIMIT {
            return fail(
                "shared memory",
                format!("at most {SHARED_LIMIT} bytes with 1024 of the system's"),
                shared.to_string(),
            );
        }
        let params = args.pack(k)?;
        let globals = self.module_variables(module)?;
        self.launches += 1;
        let seed = match settings.policy {
            Policy::Random(s) | Policy::Pct { seed: s, .. } => s,
            _ => 0,
        };
        let async_seed = match settings.completion {
            Completion::Random(s) => s,
            _ => 0,
        };
        let mut m = Machine {
            kernel: k,
            files: module.files(),
            launch: self.launches,
            device: self,
            settings,
            counters: Counters::default(),
            rng: Rng::new(seed),
            async_rng: Rng::new(!async_seed),
            params,
            globals,
            grid: launch.grid,
            dims: launch.block,
            dynamic_shared: launch.shared,
            steps: 0,
            released: Default::default(),
        };
        let mut order: Vec<u32> = Vec::new();
        match settings.policy {
            Policy::Forward => {}
            Policy::Reverse => order = (0..blocks as u32).rev().collect(),
            _ => {
                order = (0..blocks as u32).collect();
                m.rng.shuffle(&mut order);
            }
        }
        for i in 0..blocks as u32 {
            m.block(order.get(i as usize).copied().unwrap_or(i))?;
        }
        Ok(m.counters)
    }

    /// Addresses of the module's variables; they are allocated at its first launch and keep their values.
    fn module_variables(&mut self, module: &Module) -> Result<Vec<u64>> {
        let mut out = Vec::new();
        for (i, var) in module.variables().iter().enumerate() {
            let address = match (var.space, var.size) {
                (Space::Global | Space::Const, Some(size)) => match self.globals.get(&(module.id(), i)) {
                    Some(&a) => a,
                    None => {
                        let a = self.alloc(&var.name, size)?;
                        let mut bytes = var.init.clone();
                        bytes.resize(size, 0);
                        self.write_bytes(a, &bytes)?;
                        self.globals.insert((module.id(), i), a);
                        a
                    }
                },
                _ => 0,
            };
            out.push(address);
        }
        Ok(out)
    }
}
