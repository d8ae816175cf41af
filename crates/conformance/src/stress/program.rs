//! Programs as data: a graph over small arrays of int32, and what each thread does with it.
//!
//! Integers wrap, so every order of computation gives the same bits.

use std::fmt;

use motet::Priority;
use motet_core::ops::Primitive;
use motet_core::ops::elementwise::{
    Abs, Add, Maximum, Minimum, Multiply, Negative, Square, Subtract,
};

/// The number of a node of a program: an index into [`Program::nodes`].
pub type Id = usize;

/// What is computed, and what each thread does with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// What it was made from.
    pub seed: u64,
    /// The rows and columns of every value. The columns are even in number.
    pub shape: [usize; 2],
    /// The streams beside the threads' own, and how urgent they are.
    pub streams: Vec<Priority>,
    /// The number of cancel tokens.
    pub tokens: usize,
    /// The memory scopes. A scope is within an earlier one, or right under the process.
    pub scopes: Vec<Scope>,
    /// The graph. A node uses earlier ones.
    pub nodes: Vec<Node>,
    /// What each thread does.
    pub threads: Vec<Vec<Action>>,
}

/// A memory scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// The scope that it is within.
    pub parent: Option<usize>,
    /// For how many values it has room at first; for any number where there is none.
    pub limit: Option<usize>,
}

/// One value of the graph. Whoever needs it first makes the lazy array.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub op: Op,
    /// Its stream; the default one of the thread that makes it where there is none.
    pub stream: Option<usize>,
    /// What it is called with. For operations that [take](Op::takes_terms) any.
    pub terms: Terms,
    /// How it fails. For [wrapped](Op::is_wrapped) operations.
    pub fault: Option<Fault>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Multiples of a number.
    Data(i32),
    /// An operation on each element.
    Unary(Unary, Id),
    /// An operation on pairs of elements, with the [difference](Op::Difference) as second output.
    Binary(Binary, Id, Id),
    /// The second output of a binary operation or a call.
    Difference(Id),
    /// An operation that moves or combines elements.
    Transform(Transform, Id),
    /// One added, so many times, each time by an operation of its own.
    Chain(Id, usize),
    /// A call of a function, with the [difference](Op::Difference) as second output.
    Call(Callee, Id, Id),
}

/// Operations on each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// `-x`
    Negative,
    /// `|x|`
    Abs,
    /// `x * x`
    Square,
}

/// Operations on pairs of elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Binary {
    /// `x + y`
    Add,
    /// `x * y`
    Multiply,
    /// The greater one.
    Maximum,
    /// The lesser one.
    Minimum,
}

/// Operations that move or combine elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transform {
    /// The sum of the row, in all of its places.
    RowSums,
    /// The sums of the row so far.
    RunningSums,
    /// Each row from its end.
    Flip,
    /// The columns one after the other.
    Turn,
    /// The halves of each row swapped: an operation of two outputs and one that joins them.
    Swap,
    /// The lowest two bits times a matrix of small numbers, in float32, where that is exact.
    Product,
}

impl Transform {
    /// Each of them.
    pub const ALL: [Transform; 6] = [
        Transform::RowSums,
        Transform::RunningSums,
        Transform::Flip,
        Transform::Turn,
        Transform::Swap,
        Transform::Product,
    ];
}

/// A function that threads share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Callee {
    /// What it computes.
    pub formula: Formula,
    /// Where it comes from.
    pub source: Source,
}

/// What functions compute, of `x` and `y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Formula {
    /// `(x + y) * x - y`
    Polynomial,
    /// The running sums of the greater one, plus the row sums of `x`.
    Sums,
    /// The [product](Transform::Product) of `x + y`.
    Product,
}

/// Where functions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Traced by `compile`.
    Traced,
    /// Exported to a file and imported.
    Imported,
    /// Exported, imported and compiled.
    Compiled,
}

/// What a call says about how it runs.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Terms {
    /// What may end it early.
    pub limit: Limit,
    /// How urgent it is; as urgent as its stream where there is none.
    pub priority: Option<Priority>,
    /// The memory scope that it counts for.
    pub scope: Option<usize>,
}

/// What may end an operation early.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Limit {
    /// Nothing.
    #[default]
    None,
    /// A cancel token that is cancelled already.
    Cancelled,
    /// A cancel token.
    Token(usize),
    /// A deadline that has passed.
    Late,
    /// A deadline, so many microseconds after the lazy array was made.
    Soon(u64),
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// When.
    pub at: At,
    /// In what way.
    pub how: How,
}

/// When an operation fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// Before it computes anything.
    Before,
    /// In a tile of a region.
    Inside,
    /// When its results are there.
    After,
}

/// In what way an operation fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// It returns an error.
    Error,
    /// It panics.
    Panic,
    /// It returns its input as its result: what the stress test exists to find. Never generated.
    Wrong,
}

/// One thing that a thread does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `eval` of these nodes.
    Eval(Vec<Id>),
    /// `async_eval` of these nodes.
    AsyncEval(Vec<Id>),
    /// `eval_async` of these nodes, handed to the executor that all threads share.
    Spawn(Vec<Id>),
    /// Polls what the executor has been woken for.
    Run,
    /// Drops the future that was spawned first, done or not.
    Kill,
    /// `eval_async` of these nodes, polled by this thread until it is done.
    Await(Vec<Id>),
    /// `eval_async` of these nodes, polled so many times and dropped.
    Abandon(Vec<Id>, usize),
    /// `to_vec`
    Read(Id),
    /// `item` of the sum of all elements.
    Item(Id),
    /// `synchronize` of a stream.
    Synchronize(usize),
    /// Drops the shared handles to a node's arrays; who needs it next makes it anew.
    Drop(Id),
    /// Keeps a clone until the thread ends.
    Hold(Id),
    /// Opens a `StreamContext`.
    Enter(usize),
    /// Closes the context that was opened first.
    Leave,
    /// Cancels a token.
    Cancel(usize),
    /// `clear_cache`
    ClearCache,
    /// `set_cache_limit`, to the size of so many values.
    CacheLimit(usize),
    /// Sets the limit of a memory scope: room for so many values, or for any number.
    Limit(usize, Option<usize>),
    /// Gives what a memory scope has in the cache back, and looks whether its numbers can be.
    Trim(usize),
    /// Evaluates with the memory limit set to just above what is in use. For the first thread only.
    Starve(Id),
    /// Drops the shared handle to a stream; who needs it next makes a new one.
    DropStream(usize),
    /// Drops the shared handle to a function; who needs it next makes or imports it anew.
    DropFunction(Callee),
    /// Calls a model of the repository.
    Model {
        /// Which.
        model: usize,
        /// Whether as a plan.
        compiled: bool,
        /// Whether it is imported for this call alone.
        fresh: bool,
        /// What it is called with.
        terms: Terms,
    },
    /// Lets other threads go first.
    Yield,
}

impl Op {
    /// The nodes that it uses.
    pub fn inputs(&self) -> Vec<Id> {
        match *self {
            Op::Data(_) => vec![],
            Op::Unary(_, x) | Op::Difference(x) | Op::Transform(_, x) | Op::Chain(x, _) => vec![x],
            Op::Binary(_, x, y) | Op::Call(_, x, y) => vec![x, y],
        }
    }

    /// Whether it runs as an operation that the stress test wraps.
    pub fn is_wrapped(&self) -> bool {
        matches!(self, Op::Unary(..) | Op::Binary(..))
    }

    /// Whether call options apply to it.
    pub fn takes_terms(&self) -> bool {
        self.is_wrapped() || matches!(self, Op::Call(..))
    }
}

impl Unary {
    /// What computes it.
    pub fn primitive(self) -> Primitive {
        match self {
            Unary::Negative => Negative.into(),
            Unary::Abs => Abs.into(),
            Unary::Square => Square.into(),
        }
    }
}

impl Binary {
    /// What computes it.
    pub fn primitive(self) -> Primitive {
        match self {
            Binary::Add => Add.into(),
            Binary::Multiply => Multiply.into(),
            Binary::Maximum => Maximum.into(),
            Binary::Minimum => Minimum.into(),
        }
    }

    /// What computes both outputs.
    pub fn primitives(self) -> Vec<Primitive> {
        vec![self.primitive(), Subtract.into()]
    }
}

impl Action {
    /// The nodes that it names.
    pub fn nodes(&self) -> &[Id] {
        match self {
            Action::Eval(ids) | Action::AsyncEval(ids) | Action::Spawn(ids) => ids,
            Action::Await(ids) | Action::Abandon(ids, _) => ids,
            Action::Read(id) | Action::Item(id) | Action::Drop(id) => std::slice::from_ref(id),
            Action::Hold(id) | Action::Starve(id) => std::slice::from_ref(id),
            _ => &[],
        }
    }

    /// The nodes that it names, to be changed.
    pub fn nodes_mut(&mut self) -> &mut [Id] {
        match self {
            Action::Read(id) | Action::Item(id) | Action::Drop(id) => std::slice::from_mut(id),
            Action::Hold(id) | Action::Starve(id) => std::slice::from_mut(id),
            other => other.several().map_or(&mut [], Vec::as_mut_slice),
        }
    }

    /// The nodes that it names, where there may be several.
    pub fn several(&mut self) -> Option<&mut Vec<Id>> {
        match self {
            Action::Eval(ids) | Action::AsyncEval(ids) | Action::Spawn(ids) => Some(ids),
            Action::Await(ids) | Action::Abandon(ids, _) => Some(ids),
            _ => None,
        }
    }

    /// Whether it makes a future.
    pub fn is_async(&self) -> bool {
        matches!(
            self,
            Action::Spawn(_) | Action::Await(_) | Action::Abandon(..)
        )
    }
}

impl Program {
    /// All actions of all threads.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.threads.iter().flatten()
    }

    /// A scope and all that it is within.
    pub fn scopes_of(&self, scope: Option<usize>) -> impl Iterator<Item = usize> {
        std::iter::successors(scope, |&scope| self.scopes[scope].parent)
    }

    /// The most values that a scope ever has room for; `None` where that may be any number.
    pub fn room(&self, scope: usize) -> Option<usize> {
        let limits = self.actions().filter_map(|action| match action {
            &Action::Limit(of, values) if of == scope => Some(values),
            _ => None,
        });
        limits.fold(self.scopes[scope].limit, |most, limit| {
            Some(most?.max(limit?))
        })
    }

    /// Whether a scope ever has a limit.
    pub fn is_limited(&self, scope: usize) -> bool {
        let limits = |action: &Action| matches!(action, &Action::Limit(of, Some(_)) if of == scope);
        self.scopes[scope].limit.is_some() || self.actions().any(limits)
    }

    /// For each node whether an action needs it.
    pub fn used(&self) -> Vec<bool> {
        let mut used = vec![false; self.nodes.len()];
        for &id in self.actions().flat_map(Action::nodes) {
            used[id] = true;
        }
        for id in (0..self.nodes.len())
            .rev()
            .filter(|&id| used[id])
            .collect::<Vec<_>>()
        {
            let mut path = self.nodes[id].op.inputs();
            while let Some(id) = path.pop() {
                if !std::mem::replace(&mut used[id], true) {
                    path.extend(self.nodes[id].op.inputs());
                }
            }
        }
        used
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {:?}", self.limit)?;
        if let Some(priority) = self.priority {
            write!(f, ", {priority:?}")?;
        }
        match self.scope {
            Some(scope) => write!(f, ", scope {scope}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, columns] = self.shape;
        writeln!(f, "seed {}, values of {rows} x {columns}", self.seed)?;
        writeln!(f, "  streams {:?}, scopes {:?}", self.streams, self.scopes)?;
        let used = self.used();
        for (id, node) in self.nodes.iter().enumerate().filter(|(id, _)| used[*id]) {
            write!(f, "  n{id} = {:?}", node.op)?;
            if let Some(stream) = node.stream {
                write!(f, ", stream {stream}")?;
            }
            if node.terms != Terms::default() {
                write!(f, ", {:?}", node.terms)?;
            }
            if let Some(Fault { at, how }) = node.fault {
                write!(f, ", fault {how:?} {at:?}")?;
            }
            writeln!(f)?;
        }
        for (number, actions) in self.threads.iter().enumerate() {
            writeln!(f, "  thread {number}: {actions:?}")?;
        }
        Ok(())
    }
}
