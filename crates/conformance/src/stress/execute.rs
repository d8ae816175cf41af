//! Runs a program on the runtime, each of its threads as a thread, and compares all that they see
//! with what the interpreter says.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use motet::{
    Array, CallOptions, CancelToken, Device, ErrorKind, EvalFuture, Function, Stream,
    StreamContext, async_eval, current_stream, eval, eval_async, memory, new_stream_with_priority,
    ops, with_stream,
};
use motet_core::error::{Error, Result};

use super::functions::{self, MODEL_COUNT};
use super::injected::{Counters, Injected, message};
use super::interpret::{self, Errors};
use super::program::{Action, Callee, Id, Limit, Op, Program, Terms};
use super::scopes::Scopes;
use super::tasks::{self, Executor};
use super::watchdog::Watchdog;

/// What programs did.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Evaluations, of one or more nodes each.
    pub evaluations: usize,
    /// Wrapped operations that ran.
    pub operations: usize,
    /// Calls of models.
    pub calls: usize,
    /// Futures that were polled until they were done.
    pub futures: usize,
    /// Futures that were dropped before.
    pub dropped: usize,
    /// Evaluations that ended with an injected error or panic.
    pub injected: usize,
    /// Evaluations that were cancelled.
    pub cancelled: usize,
    /// Evaluations whose deadline had passed.
    pub late: usize,
    /// Evaluations that were refused memory.
    pub refused: usize,
    /// The most threads of a program.
    pub threads: usize,
}

impl Stats {
    /// Adds those of another program.
    pub fn add(&mut self, other: &Stats) {
        self.evaluations += other.evaluations;
        self.operations += other.operations;
        self.calls += other.calls;
        self.futures += other.futures;
        self.dropped += other.dropped;
        self.injected += other.injected;
        self.cancelled += other.cancelled;
        self.late += other.late;
        self.refused += other.refused;
        self.threads = self.threads.max(other.threads);
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} graphs evaluated by up to {} threads, {} wrapped operations, {} calls of models, \
             {} futures and {} dropped ones; ended early: {} by injected failures, {} by cancelling, {} by deadlines, {} by memory",
            self.evaluations,
            self.threads,
            self.operations,
            self.calls,
            self.futures,
            self.dropped,
            self.injected,
            self.cancelled,
            self.late,
            self.refused
        )
    }
}

/// How long what is left of a program may take to end by itself.
pub(super) const SETTLE: Duration = Duration::from_secs(20);

/// Runs a program.
///
/// # Errors
/// What was seen that is not right.
pub fn execute(program: &Program) -> Result<Stats, String> {
    // Programs count memory, and set limits: one at a time.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = lock(&ALONE);
    silence_injected_panics();
    for (model, compiled) in (0..MODEL_COUNT).flat_map(|model| [(model, false), (model, true)]) {
        functions::model_alone(model, compiled);
    }
    let active = memory::active();
    let session = Session::new(program);
    session.run();
    let (counters, mut stats) = (session.counters.clone(), lock(&session.stats).clone());
    let scopes = Arc::clone(&session.scopes);
    drop(session);
    settle(&counters, active, &scopes)?;
    scopes.check()?;
    stats.operations = counters.runs.load(Ordering::Relaxed);
    stats.threads = program.threads.len();
    match lock(&counters.violations).first() {
        Some(first) => Err(first.clone()),
        None => Ok(stats),
    }
}

/// Waits until what was submitted and not waited for has ended, and nothing is left of it.
fn settle(counters: &Counters, active: usize, scopes: &Scopes) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let alive = counters.alive.load(Ordering::Relaxed);
        let (now, in_scopes) = (memory::active(), scopes.left());
        // Less, where something else in the process held memory at the start.
        if alive == 0 && now <= active && in_scopes == 0 {
            return Ok(());
        }
        if start.elapsed() > SETTLE {
            return Err(format!(
                "left behind: {alive} operations, {in_scopes} bytes of memory scopes; in use are \
                 {now} bytes, at the start {active}"
            ));
        }
        thread::yield_now();
    }
}

/// Panics that are made on purpose need not be read.
fn silence_injected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload().downcast_ref::<String>();
            if !text.is_some_and(|text| text.starts_with("stress fault")) {
                others(panic);
            }
        }));
    });
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the threads of a program share.
struct Session<'a> {
    program: &'a Program,
    values: Vec<Vec<i32>>,
    errors: Vec<Errors>,
    /// Whether anything may be refused memory.
    starving: bool,
    start: Instant,
    /// The outputs of each node, where somebody has made them.
    arrays: Vec<Mutex<Option<Vec<Array>>>>,
    streams: Vec<Mutex<Option<Stream>>>,
    tokens: Vec<CancelToken>,
    scopes: Arc<Scopes>,
    executor: Executor,
    /// The process's cache limit before the program set it.
    cache_limit: Mutex<Option<usize>>,
    functions: Mutex<HashMap<Callee, Function>>,
    models: Mutex<HashMap<(usize, bool), Function>>,
    counters: Arc<Counters>,
    stats: Mutex<Stats>,
}

/// What one thread has for itself.
#[derive(Default)]
struct Local {
    contexts: Vec<StreamContext>,
    held: Vec<Vec<Array>>,
}

impl<'a> Session<'a> {
    fn new(program: &'a Program) -> Session<'a> {
        Session {
            program,
            values: interpret::values(program),
            errors: interpret::errors(program),
            starving: program
                .actions()
                .any(|action| matches!(action, Action::Starve(_))),
            start: Instant::now(),
            arrays: program.nodes.iter().map(|_| Mutex::default()).collect(),
            streams: program.streams.iter().map(|_| Mutex::default()).collect(),
            tokens: (0..program.tokens).map(|_| CancelToken::new()).collect(),
            scopes: Arc::new(Scopes::new(program)),
            executor: Executor::default(),
            cache_limit: Mutex::default(),
            functions: Mutex::default(),
            models: Mutex::default(),
            counters: Arc::new(Counters {
                restarts: program.actions().any(Action::is_async),
                ..Counters::default()
            }),
            stats: Mutex::default(),
        }
    }

    /// Runs all threads; afterwards everything that they named has to be right still.
    fn run(&self) {
        let watchdog = Watchdog::new(self.program);
        let start = Barrier::new(self.program.threads.len());
        thread::scope(|scope| {
            scope.spawn(|| watchdog.watch());
            let threads: Vec<_> = (0..self.program.threads.len())
                .map(|thread| {
                    let (start, watchdog) = (&start, &watchdog);
                    scope.spawn(move || {
                        start.wait();
                        self.thread(thread, watchdog);
                    })
                })
                .collect();
            for (number, thread) in threads.into_iter().enumerate() {
                if thread.join().is_err() {
                    self.counters.violation(format!("thread {number} panicked"));
                }
            }
            self.executor
                .finish(&|ids, result| self.judge_future(ids, result));
            let named = self.program.actions().flat_map(Action::nodes);
            for &id in named.collect::<std::collections::BTreeSet<_>>() {
                self.read(id);
            }
            watchdog.dismiss();
        });
    }

    fn thread(&self, thread: usize, watchdog: &Watchdog<'_>) {
        let mut local = Local::default();
        let actions = &self.program.threads[thread];
        for (number, action) in actions.iter().enumerate() {
            watchdog.note(thread, number);
            self.perform(action, &mut local);
        }
        watchdog.note(thread, actions.len());
    }

    fn perform(&self, action: &Action, local: &mut Local) {
        match action {
            Action::Eval(ids) => {
                let result = self.all(ids).and_then(|arrays| eval(&arrays));
                self.judge(ids, result, true);
            }
            Action::AsyncEval(ids) => {
                let result = self.all(ids).and_then(|arrays| async_eval(&arrays));
                self.judge(ids, result, false);
            }
            Action::Spawn(ids) => {
                if let Some(future) = self.future(ids) {
                    self.executor.spawn(ids, future);
                }
            }
            Action::Run => self
                .executor
                .run(&|ids, result| self.judge_future(ids, result)),
            Action::Kill => self.count_dropped(self.executor.kill()),
            Action::Await(ids) => {
                if let Some(future) = self.future(ids) {
                    self.judge_future(ids, tasks::block_on(future));
                }
            }
            &Action::Abandon(ref ids, polls) => {
                if let Some(future) = self.future(ids) {
                    match tasks::abandon(future, polls) {
                        Some(result) => self.judge_future(ids, result),
                        None => self.count_dropped(true),
                    }
                }
            }
            &Action::Read(id) => self.read(id),
            &Action::Item(id) => {
                let sum = || ops::sum(&self.array(id)?, ..)?.item::<i32>();
                let expected = self.values[id].iter().fold(0i32, |a, &b| a.wrapping_add(b));
                self.compare(id, sum(), expected);
            }
            &Action::Synchronize(stream) => match self.stream(stream) {
                Ok(stream) => stream.synchronize(),
                Err(error) => self.counters.violation(format!("new_stream: {error}")),
            },
            &Action::Drop(id) => drop(lock(&self.arrays[id]).take()),
            &Action::Hold(id) => match self.outputs(id) {
                Ok(outputs) => local.held.push(outputs),
                Err(error) => self.judge(&[id], Err(error), false),
            },
            &Action::Enter(stream) => match self.stream(stream) {
                Ok(stream) => local.contexts.push(StreamContext::new(&stream)),
                Err(error) => self.counters.violation(format!("new_stream: {error}")),
            },
            Action::Leave => {
                if !local.contexts.is_empty() {
                    drop(local.contexts.remove(0));
                }
            }
            &Action::Cancel(token) => self.tokens[token].cancel(),
            Action::ClearCache => memory::clear_cache(),
            &Action::CacheLimit(values) => {
                let mut first = lock(&self.cache_limit);
                let before = memory::set_cache_limit(self.scopes.bytes(Some(values)));
                first.get_or_insert(before);
            }
            &Action::Limit(scope, values) => self.scopes.set_limit(scope, values),
            &Action::Trim(scope) => {
                self.scopes.get(scope).clear_cache();
                if let Err(wrong) = self.scopes.check() {
                    self.counters.violation(wrong);
                }
            }
            &Action::Starve(id) => {
                let _restored = Limited::to(memory::active() + (id % 3) * 1024);
                self.read(id);
            }
            &Action::DropStream(stream) => drop(lock(&self.streams[stream]).take()),
            Action::DropFunction(callee) => {
                let function = lock(&self.functions).remove(callee);
                drop(function);
            }
            &Action::Model {
                model,
                compiled,
                fresh,
                ref terms,
            } => self.call_model(model, compiled, fresh, terms),
            Action::Yield => thread::yield_now(),
        }
    }

    fn read(&self, id: Id) {
        let result = self.array(id).and_then(|array| array.to_vec::<i32>());
        self.compare(id, result, self.values[id].clone());
    }

    /// An evaluation of these nodes; nothing where they cannot be made.
    fn future(&self, ids: &[Id]) -> Option<EvalFuture> {
        match self.all(ids) {
            Ok(arrays) => Some(eval_async(&arrays)),
            Err(error) => {
                self.judge(ids, Err(error), true);
                None
            }
        }
    }

    fn judge_future(&self, ids: &[Id], result: Result<()>) {
        lock(&self.stats).futures += 1;
        self.judge(ids, result, true);
    }

    fn count_dropped(&self, was_pending: bool) {
        lock(&self.stats).dropped += usize::from(was_pending);
    }

    fn compare<T: PartialEq>(&self, id: Id, result: Result<T>, expected: T) {
        if result.as_ref().is_ok_and(|value| *value != expected) {
            self.counters.violation(format!("n{id} has a wrong value"));
        }
        self.judge(&[id], result.map(|_| ()), true);
    }

    /// Looks whether the program explains a result; `waited` where no error says that there is none.
    fn judge(&self, ids: &[Id], result: Result<()>, waited: bool) {
        let mut errors = Errors::default();
        ids.iter().for_each(|&id| errors.extend(&self.errors[id]));
        lock(&self.stats).evaluations += 1;
        let explained = match &result {
            Ok(()) => !(waited && errors.certain),
            Err(error) => self.explains(&errors, error),
        };
        if !explained {
            let what = format!("{ids:?} gave {result:?}, of which may be {errors:?}");
            self.counters.violation(what);
        }
    }

    /// Whether an error is one of these.
    fn explains(&self, errors: &Errors, error: &Error) -> bool {
        let mut stats = lock(&self.stats);
        match error.kind() {
            ErrorKind::Memory => {
                stats.refused += 1;
                self.starving || errors.refused
            }
            ErrorKind::Cancelled => {
                stats.cancelled += 1;
                errors.cancelled
            }
            ErrorKind::DeadlineExceeded => {
                stats.late += 1;
                errors.late
            }
            _ => {
                stats.injected += 1;
                let text = error.to_string();
                errors.faults.iter().any(|&id| text.contains(&message(id)))
            }
        }
    }

    fn call_model(&self, model: usize, compiled: bool, fresh: bool, terms: &Terms) {
        let call = || -> Result<Vec<f32>> {
            let known = lock(&self.models).get(&(model, compiled)).cloned();
            let function = match known.filter(|_| !fresh) {
                Some(function) => function,
                None => {
                    let imported = functions::import_model(model, compiled)?;
                    let mut models = lock(&self.models);
                    models.entry((model, compiled)).or_insert(imported).clone()
                }
            };
            let function = functions::with_options(function, &self.options(terms));
            function.call(&[functions::model_input(model)?])?[0].to_vec()
        };
        lock(&self.stats).calls += 1;
        let errors = Errors::of(self.program, terms);
        let right = match call() {
            Ok(output) => output == functions::model_alone(model, compiled) && !errors.certain,
            Err(error) if self.explains(&errors, &error) => true,
            Err(error) => {
                self.counters.violation(format!("model {model}: {error}"));
                return;
            }
        };
        if !right {
            let what = format!("model {model}: a wrong value, or one where there is none");
            self.counters.violation(what);
        }
    }

    fn all(&self, ids: &[Id]) -> Result<Vec<Array>> {
        ids.iter().map(|&id| self.array(id)).collect()
    }

    fn array(&self, id: Id) -> Result<Array> {
        Ok(self.outputs(id)?.swap_remove(0))
    }

    /// The lazy outputs of a node. Nothing is locked while they are made: of two threads that make
    /// them at once, the first one's count.
    fn outputs(&self, id: Id) -> Result<Vec<Array>> {
        let known = lock(&self.arrays[id]).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let made = self.make(id)?;
        Ok(lock(&self.arrays[id]).get_or_insert(made).clone())
    }

    fn make(&self, id: Id) -> Result<Vec<Array>> {
        let node = &self.program.nodes[id];
        let stream = match node.stream {
            Some(stream) => self.stream(stream)?,
            None => current_stream()?,
        };
        let inputs = self.all(&node.op.inputs())?;
        with_stream(&stream, || match node.op {
            Op::Data(step) => {
                let data = interpret::data(self.program.shape, step);
                Ok(vec![Array::from_slice(&data, self.program.shape)?])
            }
            Op::Unary(op, _) => self.wrapped(id, vec![op.primitive()], &inputs, &stream),
            Op::Binary(op, ..) => self.wrapped(id, op.primitives(), &inputs, &stream),
            Op::Difference(of) => Ok(vec![self.outputs(of)?.swap_remove(1)]),
            Op::Transform(transform, _) => Ok(vec![functions::transform(transform, &inputs[0])?]),
            Op::Chain(_, depth) => {
                let chain = (0..depth).try_fold(inputs[0].clone(), |x, _| ops::add(&x, 1));
                Ok(vec![chain?])
            }
            Op::Call(callee, ..) => self.call(id, callee, &inputs, &stream),
        })
    }

    fn wrapped(
        &self,
        id: Id,
        primitives: Vec<motet_core::ops::Primitive>,
        inputs: &[Array],
        stream: &Stream,
    ) -> Result<Vec<Array>> {
        let node = &self.program.nodes[id];
        let options = self.options(&node.terms);
        let (fault, counters) = (node.fault, &self.counters);
        Injected::apply(id, primitives, fault, counters, inputs, stream, options)
    }

    fn call(
        &self,
        id: Id,
        callee: Callee,
        inputs: &[Array],
        stream: &Stream,
    ) -> Result<Vec<Array>> {
        let known = lock(&self.functions).get(&callee).cloned();
        let function = match known {
            Some(function) => function,
            None => {
                let made = functions::make(callee, self.program.shape)?;
                lock(&self.functions).entry(callee).or_insert(made).clone()
            }
        };
        let mut options = self.options(&self.program.nodes[id].terms);
        options.stream = Some(stream.clone());
        functions::with_options(function, &options).call(inputs)
    }

    fn options(&self, terms: &Terms) -> CallOptions {
        let mut options = CallOptions::default();
        match terms.limit {
            Limit::None => {}
            Limit::Cancelled => {
                let token = CancelToken::new();
                token.cancel();
                options.cancel = Some(token);
            }
            Limit::Token(token) => options.cancel = Some(self.tokens[token].clone()),
            Limit::Late => options.deadline = Some(self.start),
            Limit::Soon(micros) => {
                options.deadline = Some(Instant::now() + Duration::from_micros(micros));
            }
        }
        options.priority = terms.priority;
        options.memory = terms.scope.map(|scope| self.scopes.get(scope).clone());
        options
    }

    fn stream(&self, number: usize) -> Result<Stream, Error> {
        let mut slot = lock(&self.streams[number]);
        if let Some(stream) = &*slot {
            return Ok(stream.clone());
        }
        let stream = new_stream_with_priority(Device::CPU, self.program.streams[number])?;
        Ok(slot.insert(stream).clone())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(before) = lock(&self.cache_limit).take() {
            memory::set_cache_limit(before);
        }
    }
}

/// A memory limit; dropping it sets what was before.
struct Limited(usize);

impl Limited {
    fn to(bytes: usize) -> Limited {
        Limited(memory::set_limit(bytes))
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        memory::set_limit(self.0);
    }
}
