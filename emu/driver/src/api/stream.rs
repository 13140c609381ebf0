//! Streams, events, and graphs captured of streams.

use super::*;

/// Milliseconds between two events that the stream has passed.
fn elapsed(from: usize, to: usize) -> Result<f32, Code> {
    let state = State::enter()?;
    let passed = |event: usize| match state.events.get(&event) {
        Some(0) => state.passed.get(&event).copied().ok_or(INVALID_HANDLE),
        Some(_) => Err(NOT_READY),
        None => misuse("reading no event"),
    };
    Ok((passed(to)? - passed(from)?).as_secs_f32() * 1e3)
}

api! {
    fn cuStreamCreate(stream: *mut usize, _flags: c_uint) since 2000 {
        let mut state = State::enter()?;
        let handle = state.handle();
        state.streams.insert(handle, Stream::default());
        // SAFETY: the API's contract.
        unsafe { put(stream, handle) }
    }
    fn cuStreamDestroy_v2(stream: usize) since 4000 {
        let mut state = State::enter()?;
        check(state.run(stream, |_| false))?;
        state.streams.remove(&stream);
    }
    fn cuStreamSynchronize(stream: usize) since 2000 {
        check(State::enter()?.run(stream, |_| false))?
    }
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) since 10010 {
        if stream == 0 {
            return Err(CAPTURE_UNSUPPORTED);
        }
        let mut state = State::enter()?;
        let stream = state.stream(stream);
        let capture = Capture { calls: Vec::new(), mode, thread: std::thread::current().id() };
        if stream.capturing.replace(capture).is_some() {
            misuse("two captures on one stream");
        }
    }
    fn cuStreamEndCapture(stream: usize, graph: *mut usize) since 10000 {
        let mut state = State::enter()?;
        let capture = state.stream(stream).capturing.take().unwrap_or_else(|| misuse("ending no capture"));
        let handle = state.handle();
        state.graphs.insert(handle, capture.calls);
        // SAFETY: the API's contract.
        unsafe { put(graph, handle) }
    }
    fn cuGraphInstantiateWithFlags(executable: *mut usize, graph: usize, _flags: c_ulonglong) since 11040 {
        let mut state = State::enter()?;
        let calls = state.graphs.get(&graph).unwrap_or_else(|| misuse("a graph that does not exist")).clone();
        let handle = state.handle();
        state.executables.insert(handle, calls);
        // SAFETY: the API's contract.
        unsafe { put(executable, handle) }
    }
    fn cuGraphDestroy(graph: usize) since 10000 {
        State::enter()?.graphs.remove(&graph).unwrap_or_else(|| misuse("destroying no graph"))
    }
    fn cuGraphExecDestroy(executable: usize) since 10000 {
        State::enter()?.executables.remove(&executable).unwrap_or_else(|| misuse("destroying no graph"))
    }
    fn cuGraphLaunch(executable: usize, stream: usize) since 10000 {
        let mut state = State::enter()?;
        let calls = state.executables.get(&executable).unwrap_or_else(|| misuse("launching no graph")).clone();
        for call in calls {
            check(state.enqueue(stream, Operation::Launch(call)))?;
        }
    }
    fn cuEventCreate(event: *mut usize, _flags: c_uint) since 2000 {
        let mut state = State::enter()?;
        let handle = state.handle();
        state.events.insert(handle, 0);
        // SAFETY: the API's contract.
        unsafe { put(event, handle) }
    }
    fn cuEventRecord(event: usize, stream: usize) since 2000 {
        let mut state = State::enter()?;
        *state.events.get_mut(&event).unwrap_or_else(|| misuse("recording no event")) += 1;
        check(state.enqueue(stream, Operation::Event(event)))?
    }
    fn cuEventSynchronize(event: usize) since 2000 {
        let done = |state: &State| state.events.get(&event).is_none_or(|&waiting| waiting == 0);
        check(State::enter()?.run_all(done))?
    }
    fn cuEventElapsedTime(milliseconds: *mut f32, from: usize, to: usize) since 2000 {
        // SAFETY: the API's contract.
        unsafe { put(milliseconds, elapsed(from, to)?) }
    }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, from: usize, to: usize) since 12080 {
        // SAFETY: the API's contract.
        unsafe { put(milliseconds, elapsed(from, to)?) }
    }
    fn cuEventDestroy_v2(event: usize) since 4000 {
        State::enter()?.events.remove(&event).map(drop).unwrap_or_else(|| misuse("destroying no event"))
    }
}
