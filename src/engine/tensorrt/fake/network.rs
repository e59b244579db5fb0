//! An engine of the made-up library: what it declares, and what it is given in a run.

use std::ffi::CString;

use crate::engine::tensorrt::fake::graph::Graph;
use crate::engine::tensorrt::fake::kernel::Kernel;
use crate::engine::tensorrt::shim::{Handle, TensorInfo};

/// A tensor as the engine has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Declared {
    pub name: CString,
    pub tensor: TensorInfo,
    pub output: bool,
    /// Of an output: the input whose memory it is.
    pub alias: Option<CString>,
}

/// `stem` with a layer's number.
pub(super) fn numbered(stem: &str, layer: usize) -> String {
    format!("{stem}{layer}")
}

/// What runs.
pub(super) enum Network {
    Scripted(Kernel),
    Graph(Box<Graph>),
}

impl Network {
    /// The engine that `plan` says.
    pub fn read(plan: &[u8]) -> Option<(Self, Vec<Declared>)> {
        let kernel = serde_json::from_slice(plan).ok().filter(|kernel: &Kernel| kernel.sound());
        let scripted = kernel.map(|kernel| (Self::Scripted(kernel), kernel.tensors()));
        scripted.or_else(|| Graph::read(plan).map(|(graph, declared)| (Self::Graph(Box::new(graph)), declared)))
    }

    /// Whether a run's dimensions go together; `given`: in the order of what is declared.
    pub fn admits(&self, given: impl Fn(usize) -> TensorInfo) -> bool {
        match self {
            Self::Scripted(kernel) => kernel.admits(given),
            // Its own dimensions are found when it runs.
            Self::Graph(_) => true,
        }
    }

    /// # Errors
    /// Why it can't: the device is lost then.
    pub fn run(&self, tensors: &mut Tensors<'_>) -> Result<(), String> {
        match self {
            Self::Scripted(kernel) => kernel.run(tensors),
            Self::Graph(graph) => graph.run(tensors).map_err(|error| format!("a graph failed: {error:#}"))?,
        }
        Ok(())
    }
}

/// A tensor's memory in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub buffer: Handle,
    /// Bytes into the buffer, and of the tensor.
    pub offset: usize,
    pub bytes: usize,
    pub tensor: TensorInfo,
}

impl Bound {
    pub fn overlaps(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes
    }
}

/// All tensors of a run, in the order of what is declared, over the buffers that they are in.
pub(super) struct Tensors<'a> {
    pub bound: &'a [Bound],
    pub buffers: &'a mut [(Handle, Box<[u64]>)],
}

impl Tensors<'_> {
    fn buffer(&self, place: usize) -> usize {
        self.buffers.iter().position(|(handle, _)| *handle == self.bound[place].buffer).unwrap_or(0)
    }

    pub fn info(&self, place: usize) -> TensorInfo {
        self.bound[place].tensor
    }

    pub fn values<T: bytemuck::AnyBitPattern>(&self, place: usize) -> &[T] {
        let Bound { offset, bytes, .. } = self.bound[place];
        bytemuck::cast_slice(&bytemuck::cast_slice::<u64, u8>(&self.buffers[self.buffer(place)].1)[offset..][..bytes])
    }

    pub fn values_mut<T: bytemuck::Pod>(&mut self, place: usize) -> &mut [T] {
        let Bound { offset, bytes, .. } = self.bound[place];
        let buffer = self.buffer(place);
        bytemuck::cast_slice_mut(&mut bytemuck::cast_slice_mut::<u64, u8>(&mut self.buffers[buffer].1)[offset..][..bytes])
    }

    /// One to read and one to write, which are in two buffers.
    pub fn pair<T: bytemuck::AnyBitPattern, U: bytemuck::Pod>(&mut self, from: usize, to: usize) -> (&[T], &mut [U]) {
        let (source, sink) = (self.bound[from], self.bound[to]);
        let places = [self.buffer(from), self.buffer(to)];
        let Ok([from, to]) = self.buffers.get_disjoint_mut(places) else { return (&[], &mut []) };
        let from = &bytemuck::cast_slice::<u64, u8>(&from.1)[source.offset..][..source.bytes];
        let to = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut to.1)[sink.offset..][..sink.bytes];
        (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to))
    }
}
