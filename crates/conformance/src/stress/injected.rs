//! Operations of the runtime, wrapped: they count themselves, open regions, and fail where the
//! program says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use motet::{Array, ErrorKind, Spec, Stream};
use motet_core::compile::executor::run_primitive;
use motet_core::error::{Error, Result};
use motet_core::node::Executable;
use motet_core::ops::Primitive;
use motet_core::options::CallOptions;
use motet_core::pool::Pool;
use motet_core::tensor::Tensor;

use super::program::{At, Fault, How, Id};

/// What the wrapped operations of a program count together.
#[derive(Default)]
pub struct Counters {
    /// Operations that somebody holds: a node, a command, or whoever runs it.
    pub alive: AtomicUsize,
    /// How many have run.
    pub runs: AtomicUsize,
    /// Whether an operation may begin again: one that runs for a future that is dropped ends early,
    /// and is lazy again.
    pub restarts: bool,
    /// What was found to be wrong.
    pub violations: Mutex<Vec<String>>,
}

impl Counters {
    /// Notes that something is wrong.
    pub fn violation(&self, what: String) {
        let mut violations = self
            .violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        violations.push(what);
    }
}

/// One operation with as many outputs as primitives, all of the same inputs.
pub struct Injected {
    node: Id,
    primitives: Vec<Primitive>,
    fault: Option<Fault>,
    begun: AtomicUsize,
    finished: AtomicUsize,
    counters: Arc<Counters>,
}

/// What errors and panics say that an operation of this node was made to give.
pub fn message(node: Id) -> String {
    format!("stress fault of n{node}.")
}

impl Injected {
    /// The lazy outputs.
    ///
    /// # Errors
    /// Where a primitive does not take the inputs.
    pub fn apply(
        node: Id,
        primitives: Vec<Primitive>,
        fault: Option<Fault>,
        counters: &Arc<Counters>,
        inputs: &[Array],
        stream: &Stream,
        options: CallOptions,
    ) -> Result<Vec<Array>> {
        let specs: Vec<Spec> = inputs.iter().map(|input| input.spec().clone()).collect();
        let outputs = primitives
            .iter()
            .map(|primitive| primitive.infer(&specs, None));
        let outputs = outputs.collect::<Result<Vec<_>>>()?.concat();
        // Relaxed, here and below: these counts are read when all threads have been joined, or
        // until they are zero.
        counters.alive.fetch_add(1, Ordering::Relaxed);
        let operation = Arc::new(Injected {
            node,
            primitives,
            fault,
            begun: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            counters: Arc::clone(counters),
        });
        Ok(Array::from_executable(
            operation,
            inputs,
            &outputs,
            stream.clone(),
            Some(&Arc::new(options)),
        ))
    }

    /// Fails, if this is when.
    fn reach(&self, at: At) -> Result<()> {
        match self.fault {
            Some(fault) if fault.at == at => match fault.how {
                How::Error => Err(Error::new(
                    ErrorKind::Invalid,
                    self.name(),
                    message(self.node),
                )),
                How::Panic => panic!("{}", message(self.node)),
                How::Wrong => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Runs some tiles, the last of which may fail, and looks whether each ran once.
    fn region(&self, pool: &Pool) -> Result<()> {
        let tiles: Vec<AtomicUsize> = (0..1 + self.node % 7)
            .map(|_| AtomicUsize::new(0))
            .collect();
        let failure = Mutex::new(Ok(()));
        pool.for_each_tile(tiles.len(), 1_000_000, &|tile| {
            tiles[tile].fetch_add(1, Ordering::Relaxed);
            if tile + 1 == tiles.len()
                && let Err(error) = self.reach(At::Inside)
            {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
            }
        });
        if tiles.iter().any(|runs| runs.load(Ordering::Relaxed) != 1) {
            let what = format!("n{}: tiles ran {tiles:?} times", self.node);
            self.counters.violation(what);
        }
        failure.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executable for Injected {
    fn name(&self) -> &str {
        "Injected"
    }

    fn execute(
        &self,
        inputs: &[Tensor],
        outputs: &[Spec],
        pool: &Pool,
        between_steps: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        if self.begun.fetch_add(1, Ordering::Relaxed) > 0 && !self.counters.restarts {
            self.counters
                .violation(format!("n{} began more than once", self.node));
        }
        self.counters.runs.fetch_add(1, Ordering::Relaxed);
        self.reach(At::Before)?;
        self.region(pool)?;
        let mut results = Vec::new();
        for (primitive, output) in self.primitives.iter().zip(outputs) {
            let output = std::slice::from_ref(output);
            results.extend(run_primitive(primitive, inputs, output, pool)?);
            between_steps()?;
        }
        self.reach(At::After)?;
        if self.fault.is_some_and(|fault| fault.how == How::Wrong) {
            results[0] = inputs[0].clone();
        }
        if self.finished.fetch_add(1, Ordering::Relaxed) > 0 {
            self.counters
                .violation(format!("n{} ran more than once", self.node));
        }
        Ok(results)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        self.counters.alive.fetch_sub(1, Ordering::Relaxed);
    }
}
