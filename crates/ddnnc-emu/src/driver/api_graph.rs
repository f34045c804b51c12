//! Exported functions: capturing, and CUDA graphs.
#![allow(non_snake_case)]

use std::sync::Arc;

use super::capture::Mode;
use super::code::{Answer, Code};
use super::ffi::{Host, Out};
use super::state::{Driver, Executable, Id};
use super::work::Op;
use super::{THREAD, current, driver, thread_number};

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Id, mode: u32) -> Code {
    current(|d, context| {
        let mode = Mode::from_c(mode)?;
        let stream = d.stream(context, stream)?;
        d.begin_capture(stream, mode, thread_number())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: Id, graph: Out<Id>) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        let captured = d.end_capture(stream, thread_number());
        let place = graph.check()?;
        let Ok(captured) = captured else {
            place.set(0);
            return captured.map(|_| ());
        };
        let id = d.id();
        d.graphs.insert(id, Arc::new(captured));
        place.set(id);
        Ok(())
    })
}

/// None, active or invalidated, as `CUstreamCaptureStatus` numbers them, and the capture's number.
fn status(d: &mut Driver, stream: Id) -> Answer<(u32, u64)> {
    let capture = d.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?.capture;
    Ok(match capture.and_then(|id| Some((id, d.captures.get(&id)?))) {
        None => (0, 0),
        Some((id, c)) => (1 + u32::from(c.invalid), id),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: Id, value: Out<u32>) -> Code {
    current(|d, context| {
        let place = value.check()?;
        let stream = d.stream(context, stream)?;
        place.set(status(d, stream)?.0);
        Ok(())
    })
}

/// Graph and nodes are told when the capture has ended only.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Id,
    value: Out<u32>,
    id: Out<u64>,
    graph: Out<Id>,
    nodes: Out<usize>,
    count: Out<usize>,
) -> Code {
    current(|d, context| {
        let place = value.check()?;
        let stream = d.stream(context, stream)?;
        let (value, capture) = status(d, stream)?;
        place.set(value);
        id.offer(capture);
        graph.offer(0);
        nodes.offer(0);
        count.offer(0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: Id,
    value: Out<u32>,
    id: Out<u64>,
    graph: Out<Id>,
    nodes: Out<usize>,
    edges: Out<usize>,
    count: Out<usize>,
) -> Code {
    edges.offer(0);
    cuStreamGetCaptureInfo_v2(stream, value, id, graph, nodes, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) -> Code {
    driver(|_| {
        let new = Mode::from_c(mode.get().ok_or(Code::INVALID_VALUE)?)?;
        let old = THREAD.with(|t| t.mode.replace(new));
        mode.offer(old as u32);
        Ok(())
    })
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH`
const DEVICE_LAUNCH: u64 = 4;

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(executable: Out<Id>, graph: Id, flags: u64) -> Code {
    current(|d, context| {
        let place = executable.check()?;
        // Freeing on launch (1), upload (2) and priorities (8) change nothing here.
        if flags & !15 != 0 || (flags & DEVICE_LAUNCH != 0 && flags & 1 != 0) {
            return Err(Code::INVALID_VALUE);
        }
        if flags & DEVICE_LAUNCH != 0 {
            return d.refuse(Code::NOT_SUPPORTED, "graphs cannot be launched by a device here");
        }
        let graph = d.graphs.get(&graph).ok_or(Code::INVALID_HANDLE)?.clone();
        let id = d.id();
        d.executables.insert(id, Executable { context, graph, last: None });
        place.set(id);
        Ok(())
    })
}

/// A launch comes after the earlier launches of the same executable graph, whichever streams they are in.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Id, stream: Id) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        let e =
            d.executables.get(&executable).filter(|e| e.context == context).ok_or(Code::INVALID_HANDLE)?;
        let (op, needs) = (Op::Graph(e.graph.clone()), e.last.into_iter().collect());
        let captured = d.capture_of(stream)?.is_some();
        d.submit_after(stream, op, needs)?;
        let last = d.end_of(stream);
        if let Some(e) = d.executables.get_mut(&executable).filter(|_| !captured) {
            e.last = Some(last);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: Id, stream: Id) -> Code {
    current(|d, context| {
        d.stream(context, stream)?;
        d.executables.get(&executable).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Id) -> Code {
    driver(|d| d.executables.remove(&executable).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Id) -> Code {
    driver(|d| d.graphs.remove(&graph).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

/// How many nodes a graph has. Nodes have no handles.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetNodes(graph: Id, nodes: Host, count: Out<usize>) -> Code {
    driver(|d| {
        let place = count.check()?;
        let graph = d.graphs.get(&graph).ok_or(Code::INVALID_HANDLE)?;
        if !nodes.0.is_null() {
            return d.refuse(Code::NOT_SUPPORTED, "nodes of graphs have no handles here");
        }
        place.set(graph.nodes.len());
        Ok(())
    })
}
