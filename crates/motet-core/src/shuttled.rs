//! Whole evaluations under shuttle: random graphs on several streams, evaluated, submitted,
//! cancelled and dropped by several threads, in interleavings that shuttle chooses. The modules are
//! the real ones; the loom models look closer at less.
//!
//! Run by `cargo xtask models`. A failure prints the schedule, which `shuttle::replay` takes.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::ptr::NonNull;
use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};

use crate::array::Array;
use crate::cancel::CancelToken;
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::eval::{async_eval, eval};
use crate::memory::Buffer;
use crate::node::Executable;
use crate::options::CallOptions;
use crate::pool::{Pool, Priority};
use crate::shape::Spec;
use crate::stream::Stream;
use crate::sync::{Condvar, Mutex, Rank, thread};
use crate::tensor::Tensor;

/// How an operation ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Well,
    Error,
    Panic,
}

/// Adds one to the sum of its inputs, with a region on the way, and counts its runs.
struct Operation {
    number: usize,
    end: End,
    runs: Mutex<usize>,
    ran: Condvar,
}

impl Executable for Operation {
    fn name(&self) -> &str {
        "Operation"
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        outputs: &[Spec],
        pool: &Pool,
        _: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        *self.runs.lock() += 1;
        self.ran.notify_all();
        let tiles = [(); 3].map(|()| Mutex::new(Rank::Leaf, 0));
        pool.for_each_tile(tiles.len(), usize::MAX / tiles.len(), &|tile| {
            *tiles[tile].lock() += 1;
            if tile == 1 && self.end == End::Panic {
                // Not by `panic!`, which shuttle would report.
                resume_unwind(Box::new(message(self.number)));
            }
        });
        assert!(tiles.iter().all(|runs| *runs.lock() == 1));
        if self.end == End::Error {
            return Err(Error::invalid("Operation", message(self.number)));
        }
        let sum = 1 + inputs.iter().map(value).sum::<u32>();
        Ok(vec![number(sum); outputs.len()])
    }
}

fn message(number: usize) -> String {
    format!("failure of {number}.")
}

fn number(value: u32) -> Tensor {
    let spec = Spec::new([], Dtype::Uint32);
    let owner = Box::new(value);
    let address = NonNull::from(&*owner).cast();
    // SAFETY: the number stays where it is, and as it is, while its owner lives.
    let buffer = unsafe { Buffer::foreign(address, size_of::<u32>(), owner) };
    Tensor {
        buffer: Arc::new(buffer),
        offset: 0,
        layout: spec.layout(),
    }
}

fn value(tensor: &Tensor) -> u32 {
    // SAFETY: `number` made it.
    unsafe { tensor.buffer.as_ptr().cast::<u32>().read() }
}

/// One node, and what it has to be.
struct Known {
    /// Its two outputs, which have the same value.
    outputs: Vec<Array>,
    operation: Arc<Operation>,
    value: u32,
    failures: BTreeSet<usize>,
    cancellable: bool,
}

impl Known {
    fn check(&self, result: Result<u32>) {
        match result {
            Ok(value) => assert!(value == self.value && self.failures.is_empty()),
            Err(error) if error.kind() == ErrorKind::Cancelled => assert!(self.cancellable),
            Err(error) => {
                let text = error.to_string();
                let caused = |&number: &usize| text.contains(&message(number));
                assert!(self.failures.iter().any(caused), "{text}");
            }
        }
    }

    fn get(&self, output: usize) {
        self.check(self.outputs[output].tensor().map(|tensor| value(&tensor)));
    }
}

fn below(bound: usize) -> usize {
    thread_rng().gen_range(0..bound)
}

fn graph(streams: &[Stream], token: &CancelToken) -> Vec<Known> {
    let mut nodes: Vec<Known> = Vec::new();
    for id in 0..1 + below(6) {
        let inputs: Vec<usize> = (0..below(3).min(id)).map(|_| below(id)).collect();
        let end = match below(8) {
            0 => End::Error,
            1 => End::Panic,
            _ => End::Well,
        };
        let operation = Arc::new(Operation {
            number: id,
            end,
            runs: Mutex::new(Rank::Leaf, 0),
            ran: Condvar::new(),
        });
        let mut options = CallOptions::default();
        let cancellable = below(8) == 0;
        if cancellable {
            options.cancel = Some(token.clone());
        }
        let arrays: Vec<Array> = inputs
            .iter()
            .map(|&input| nodes[input].outputs[below(2)].clone())
            .collect();
        let mut failures: BTreeSet<usize> = inputs
            .iter()
            .flat_map(|&input| nodes[input].failures.clone())
            .collect();
        if end != End::Well {
            failures.insert(id);
        }
        nodes.push(Known {
            outputs: Array::from_executable(
                Arc::clone(&operation) as Arc<dyn Executable>,
                &arrays,
                &[Spec::new([], Dtype::Uint32), Spec::new([], Dtype::Uint32)],
                streams[below(streams.len())].clone(),
                Some(&Arc::new(options)),
            ),
            operation,
            value: 1 + inputs.iter().map(|&input| nodes[input].value).sum::<u32>(),
            failures,
            cancellable: cancellable || inputs.iter().any(|&input| nodes[input].cancellable),
        });
    }
    nodes
}

/// What one thread does.
fn act(nodes: &[Known], streams: &[Stream], token: &CancelToken) {
    let node = &nodes[below(nodes.len())];
    let other = &nodes[below(nodes.len())];
    match below(9) {
        0..=2 => node.get(below(2)),
        3 | 4 => {
            let both = [other.outputs[0].clone(), node.outputs[1].clone()];
            if eval(&both).is_ok() {
                assert!(node.failures.is_empty() && other.failures.is_empty());
            }
        }
        5 => drop(async_eval(&node.outputs[..1])),
        6 if node.failures.is_empty() && !node.cancellable => {
            // A wait that does not help: somebody else has to run what was submitted.
            async_eval(&node.outputs[1..]).unwrap();
            let mut runs = node.operation.runs.lock();
            while *runs == 0 {
                runs = runs.wait(&node.operation.ran);
            }
        }
        7 => token.cancel(),
        _ => streams[below(streams.len())].synchronize(),
    }
}

fn random_evaluations() {
    let pool = Pool::new(1 + below(3));
    let streams: Vec<Stream> = (0..1 + below(3))
        .map(|_| {
            let priority = [Priority::Background, Priority::Normal, Priority::Urgent][below(3)];
            Stream::with_pool(Device::CPU, Arc::clone(&pool), priority)
        })
        .collect();
    let token = CancelToken::new();
    let nodes = Arc::new(graph(&streams, &token));
    let threads: Vec<_> = (0..1 + below(3))
        .map(|_| {
            let (nodes, token) = (Arc::clone(&nodes), token.clone());
            let (streams, actions) = (streams.clone(), 1 + below(3));
            thread::spawn(move || (0..actions).for_each(|_| act(&nodes, &streams, &token)))
        })
        .collect();
    act(&nodes, &streams, &token);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    for node in &*nodes {
        node.get(0);
        node.get(1);
        assert!(*node.operation.runs.lock() <= 1, "I1: ran twice");
    }
}

/// How many interleavings: `cargo xtask models` says it.
fn schedules() -> usize {
    let asked = std::env::var("MOTET_SHUTTLE_SCHEDULES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

#[test]
fn shuttle_random_schedules() {
    shuttle::check_random(random_evaluations, schedules());
}

/// Schedules with few changes of thread, at the worst moments.
#[test]
fn shuttle_few_preemptions() {
    shuttle::check_pct(random_evaluations, schedules(), 3);
}
