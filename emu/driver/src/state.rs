//! Devices, streams and what waits in them.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::Instant,
};

use ptx_emu::{Args, Device, Launch, Settings};

use crate::image::{Image, Ptx};

/// CUresult.
pub(crate) type Code = i32;
pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const NO_DEVICE: Code = 100;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const INVALID_IMAGE: Code = 200;
pub(crate) const INVALID_CONTEXT: Code = 201;
pub(crate) const NO_BINARY_FOR_GPU: Code = 209;
pub(crate) const UNSUPPORTED_PTX_VERSION: Code = 222;
pub(crate) const INVALID_HANDLE: Code = 400;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const NOT_READY: Code = 600;
pub(crate) const ILLEGAL_ADDRESS: Code = 700;
pub(crate) const CAPTURE_UNSUPPORTED: Code = 900;

/// Dynamic shared memory without, and with, asking.
pub(crate) const DEFAULT_SHARED: u32 = 48 << 10;
pub(crate) const MOST_SHARED: u32 = 227 << 10;

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(format!("EMULATED_CUDA_{name}")).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The newest CUDA version that the driver knows.
pub(crate) fn version() -> u32 {
    setting("VERSION", 13_000) as u32
}

/// Whether the driver takes no image of this kind.
pub(crate) fn refuses(kind: &str) -> bool {
    std::env::var("EMULATED_CUDA_REFUSES").is_ok_and(|kinds| kinds.split(',').any(|refused| refused == kind))
}

/// What the driver's manual forbids.
pub(crate) fn misuse(what: &str) -> ! {
    eprintln!("emulated driver: {what}");
    std::process::abort()
}

/// A kernel of a loaded module.
#[derive(Clone)]
pub(crate) struct Function {
    /// The handle of its module.
    pub(crate) owner: usize,
    pub(crate) ptx: Arc<Ptx>,
    pub(crate) name: String,
    pub(crate) argument_bytes: usize,
    /// Dynamic shared memory that it may have.
    pub(crate) shared: u32,
}

#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) function: Function,
    pub(crate) launch: Launch,
    pub(crate) arguments: Vec<u8>,
}

/// What waits in a stream.
pub(crate) enum Operation {
    Launch(Call),
    Set {
        at: u64,
        value: u8,
        len: usize,
    },
    /// From ordinary memory, which CUDA copies at once.
    Write {
        to: u64,
        bytes: Vec<u8>,
    },
    /// From pinned memory, which the device reads when it gets there.
    WritePinned {
        to: u64,
        from: usize,
        len: usize,
    },
    Read {
        from: u64,
        to: usize,
        len: usize,
    },
    Copy {
        to: u64,
        from: u64,
        len: usize,
    },
    Event(usize),
}

#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) waiting: VecDeque<Operation>,
    pub(crate) capturing: Option<Capture>,
}

/// What a stream collects instead of doing it.
pub(crate) struct Capture {
    pub(crate) calls: Vec<Call>,
    pub(crate) mode: i32,
    pub(crate) thread: ThreadId,
}

impl Capture {
    /// Whether the calling thread may do nothing meanwhile that could disturb it: in mode 0 no thread may, in mode 1 its
    /// own may not, and in mode 2 all may.
    fn forbids(&self) -> bool {
        self.mode == 0 || self.mode == 1 && self.thread == thread::current().id()
    }
}

pub(crate) struct Allocation {
    pub(crate) bytes: usize,
    pub(crate) ordinal: usize,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) initialised: bool,
    pub(crate) memory: Device,
    pub(crate) allocations: HashMap<u64, Allocation>,
    pub(crate) poisoned: bool,
    pub(crate) streams: HashMap<usize, Stream>,
    /// How many recordings of each event are waiting.
    pub(crate) events: HashMap<usize, usize>,
    /// When the stream last passed an event.
    pub(crate) passed: HashMap<usize, Instant>,
    pub(crate) pinned: HashMap<usize, Box<[u64]>>,
    pub(crate) modules: HashMap<usize, Image>,
    pub(crate) functions: HashMap<usize, Function>,
    pub(crate) graphs: HashMap<usize, Vec<Call>>,
    pub(crate) executables: HashMap<usize, Vec<Call>>,
    pub(crate) contexts: HashMap<usize, usize>,
    handles: usize,
}

thread_local! {
    /// The calling thread's context: 1 + the device's number, or 0.
    pub(crate) static CURRENT: Cell<usize> = const { Cell::new(0) };
}

pub(crate) fn state() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// A handle that nothing else has.
    pub(crate) fn handle(&mut self) -> usize {
        self.handles += 1;
        0x1000 + 16 * self.handles
    }

    /// The state for calls that need a context, and one that works.
    pub(crate) fn enter() -> Result<MutexGuard<'static, Self>, Code> {
        let state = state();
        if CURRENT.get() == 0 {
            return Err(INVALID_CONTEXT);
        }
        if state.poisoned { Err(ILLEGAL_ADDRESS) } else { Ok(state) }
    }

    /// As [`State::enter`], for what may wait for the whole device, as loading code does.
    pub(crate) fn enter_outside_captures() -> Result<MutexGuard<'static, Self>, Code> {
        let state = Self::enter()?;
        let captured =
            state.streams.values().filter_map(|stream| stream.capturing.as_ref()).any(Capture::forbids);
        if captured { Err(CAPTURE_UNSUPPORTED) } else { Ok(state) }
    }

    /// A stream; the null stream is always there.
    pub(crate) fn stream(&mut self, handle: usize) -> &mut Stream {
        if handle == 0 {
            return self.streams.entry(0).or_default();
        }
        self.streams.get_mut(&handle).unwrap_or_else(|| misuse("a stream that does not exist"))
    }

    /// Puts work into a stream.
    pub(crate) fn enqueue(&mut self, stream: usize, operation: Operation) -> Code {
        let stream = self.stream(stream);
        match (&mut stream.capturing, operation) {
            (Some(capture), Operation::Launch(call)) => capture.calls.push(call),
            (Some(_), _) => return CAPTURE_UNSUPPORTED,
            (None, operation) => stream.waiting.push_back(operation),
        }
        SUCCESS
    }

    /// Does what waits in a stream, to its end or to where `until` is done.
    pub(crate) fn run(&mut self, stream: usize, until: impl Fn(&Self) -> bool) -> Code {
        if self.stream(stream).capturing.is_some() {
            misuse("synchronising a stream that is captured");
        }
        while !until(self) {
            let Some(operation) = self.stream(stream).waiting.pop_front() else { break };
            if let Err(fault) = self.execute(operation) {
                eprintln!("emulated driver: {fault}");
                self.poisoned = true;
                return ILLEGAL_ADDRESS;
            }
        }
        SUCCESS
    }

    /// As [`State::run`], for every stream but those that are captured, perhaps by another thread.
    pub(crate) fn run_all(&mut self, until: impl Fn(&Self) -> bool) -> Code {
        for stream in self.streams.keys().copied().collect::<Vec<_>>() {
            if self.stream(stream).capturing.is_none() {
                let code = self.run(stream, &until);
                if code != SUCCESS {
                    return code;
                }
            }
        }
        SUCCESS
    }

    fn execute(&mut self, operation: Operation) -> ptx_emu::Result<()> {
        match operation {
            Operation::Launch(Call { function, launch, arguments }) => {
                let arguments = Args::new().structure(&arguments, 8);
                let settings = Settings::unchecked();
                self.memory
                    .launch(function.ptx.module(), &function.name, launch, &arguments, &settings)
                    .map(drop)
            }
            Operation::Set { at, value, len } => self.memory.fill(at, value, len),
            Operation::Write { to, bytes } => self.memory.write_bytes(to, &bytes),
            Operation::WritePinned { to, from, len } => {
                if self.pinned_range(from, len).is_none() {
                    misuse("pinned memory was freed before it was read");
                }
                // SAFETY: inside a live pinned allocation, as was just checked.
                let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, len) };
                self.memory.write_bytes(to, bytes)
            }
            Operation::Read { from, to, len } => {
                let bytes = self.memory.read_bytes(from, len)?;
                // SAFETY: the caller of the copy keeps its target until it has synchronised.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, len) };
                Ok(())
            }
            Operation::Copy { to, from, len } => {
                let bytes = self.memory.read_bytes(from, len)?.to_vec();
                self.memory.write_bytes(to, &bytes)
            }
            Operation::Event(event) => {
                self.events.entry(event).and_modify(|waiting| *waiting -= 1);
                self.passed.insert(event, Instant::now());
                Ok(())
            }
        }
    }

    /// The pinned allocation that holds these bytes.
    pub(crate) fn pinned_range(&self, address: usize, len: usize) -> Option<usize> {
        let mut lengths = self.pinned.iter().map(|(&start, words)| (start, 8 * words.len()));
        lengths
            .find(|&(start, bytes)| start <= address && address + len <= start + bytes)
            .map(|(start, _)| start)
    }

    /// The allocation that holds an address.
    pub(crate) fn allocation(&self, address: u64) -> Option<&Allocation> {
        let holds = |(start, allocation): &(&u64, &Allocation)| {
            (**start..*start + allocation.bytes as u64).contains(&address)
        };
        self.allocations.iter().find(holds).map(|(_, allocation)| allocation)
    }

    /// Whether something waits in any stream that `concerns` says so of.
    pub(crate) fn is_waiting(&self, concerns: impl Fn(&Operation) -> bool) -> bool {
        self.streams.values().flat_map(|stream| &stream.waiting).any(concerns)
    }
}

impl Operation {
    /// Whether it touches memory in this range, or is a launch with an address in it among its arguments.
    pub(crate) fn touches(&self, range: &Range<u64>) -> bool {
        match self {
            Self::Launch(call) => {
                let words = call.arguments.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes));
                words.into_iter().any(|word| range.contains(&word))
            }
            Self::Set { at: address, .. }
            | Self::Write { to: address, .. }
            | Self::WritePinned { to: address, .. }
            | Self::Read { from: address, .. } => range.contains(address),
            Self::Copy { to, from, .. } => range.contains(to) || range.contains(from),
            Self::Event(_) => false,
        }
    }
}
