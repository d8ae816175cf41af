//! The program of a seed.

use motet::Priority;

use super::functions::MODEL_COUNT;
use super::program::{
    Action, At, Binary, Callee, Fault, Formula, How, Id, Limit, Node, Op, Program, Scope, Source,
    Terms, Transform, Unary,
};
use crate::noise::Noise;

/// The program of a seed, of up to so many threads.
pub fn generate(seed: u64, threads: usize) -> Program {
    let mut noise = Noise::new(seed);
    // Few shapes, as each makes plans of its own; rarely one that is worth a region.
    let shape = match noise.below(24) {
        0 => [64, 256],
        1..=3 => [1, 2],
        4..=10 => [8, 8],
        11..=15 => [64, 64],
        _ => [5, 32],
    };
    let few = shape[0] * shape[1] <= 64;
    let ranked = noise.once_in(2);
    let streams: Vec<Priority> = (0..1 + noise.below(4))
        .map(|_| priority(&mut noise, ranked).unwrap_or_default())
        .collect();
    let scopes = match noise.once_in(3) {
        true => scopes(&mut noise),
        false => Vec::new(),
    };
    let given = Given {
        streams: streams.len(),
        tokens: 1 + noise.below(2),
        scopes: scopes.len(),
        limited: noise.once_in(2),
        ranked,
        asynchronous: noise.once_in(2),
    };
    let faulty = noise.once_in(2);
    let hungry = noise.once_in(4);

    let mut nodes = Vec::new();
    for id in 0..3 + noise.below(40) {
        let op = operation(&mut noise, &nodes, few);
        let terms = match op.takes_terms() {
            true => terms(&mut noise, &given),
            false => Terms::default(),
        };
        let fault = (faulty && op.is_wrapped() && noise.once_in(8)).then(|| Fault {
            at: *noise.pick(&[At::Before, At::Inside, At::After]),
            how: *noise.pick(&[How::Error, How::Panic]),
        });
        let stream = (!noise.once_in(3)).then(|| noise.below(given.streams));
        debug_assert!(op.inputs().iter().all(|&input| input < id));
        nodes.push(Node {
            op,
            stream,
            terms,
            fault,
        });
    }

    let threads = match noise.below(4) {
        0 => threads,
        1 => 1 + noise.below(threads),
        _ => (1 + noise.below(8)).min(threads),
    };
    let threads = (0..threads.max(1))
        .map(|thread| {
            let count = 1 + noise.below(if threads > 16 { 8 } else { 24 });
            let mut action = || match hungry && thread == 0 && noise.once_in(4) {
                true => Action::Starve(noise.below(nodes.len())),
                false => action(&mut noise, nodes.len(), &given),
            };
            (0..count).map(|_| action()).collect()
        })
        .collect();
    Program {
        seed,
        shape,
        streams,
        tokens: given.tokens,
        scopes,
        nodes,
        threads,
    }
}

/// What nodes and actions choose from.
struct Given {
    streams: usize,
    tokens: usize,
    scopes: usize,
    /// Whether calls may end early.
    limited: bool,
    /// Whether calls say how urgent they are.
    ranked: bool,
    /// Whether there are futures.
    asynchronous: bool,
}

fn scopes(noise: &mut Noise) -> Vec<Scope> {
    let count = 1 + noise.below(3);
    let scope = |number: usize| Scope {
        parent: (number > 0 && noise.once_in(2)).then(|| noise.below(number)),
        limit: noise.once_in(2).then(|| room(noise)),
    };
    (0..count).map(scope).collect()
}

/// A limit in values: often too low.
fn room(noise: &mut Noise) -> usize {
    noise.below(16)
}

fn terms(noise: &mut Noise, given: &Given) -> Terms {
    Terms {
        limit: match given.limited {
            true => limit(noise, given.tokens),
            false => Limit::None,
        },
        priority: priority(noise, given.ranked),
        scope: (given.scopes > 0 && noise.once_in(2)).then(|| noise.below(given.scopes)),
    }
}

fn priority(noise: &mut Noise, ranked: bool) -> Option<Priority> {
    let all = [Priority::Background, Priority::Normal, Priority::Urgent];
    (ranked && noise.once_in(2)).then(|| *noise.pick(&all))
}

fn operation(noise: &mut Noise, nodes: &[Node], few: bool) -> Op {
    if nodes.is_empty() {
        return Op::Data(1);
    }
    let (x, y) = (any(noise, nodes.len()), any(noise, nodes.len()));
    match noise.below(20) {
        0 | 1 => Op::Data(noise.bits() as i32),
        2..=4 => Op::Unary(
            *noise.pick(&[Unary::Negative, Unary::Abs, Unary::Square]),
            x,
        ),
        5..=9 => {
            let all = [
                Binary::Add,
                Binary::Multiply,
                Binary::Maximum,
                Binary::Minimum,
            ];
            Op::Binary(*noise.pick(&all), x, y)
        }
        10 | 11 => match nodes[x].op {
            Op::Binary(..) | Op::Call(..) => Op::Difference(x),
            _ => Op::Unary(Unary::Negative, x),
        },
        12..=15 => Op::Transform(*noise.pick(&Transform::ALL), x),
        16 => match few && noise.once_in(8) {
            true => Op::Chain(x, 1 + noise.below(3000)),
            false => Op::Chain(x, 1 + noise.below(20)),
        },
        _ => Op::Call(callee(noise), x, y),
    }
}

/// Any node, the latest more often.
fn any(noise: &mut Noise, count: usize) -> Id {
    match noise.once_in(3) {
        true => count - 1,
        false => noise.below(count),
    }
}

fn callee(noise: &mut Noise) -> Callee {
    Callee {
        formula: *noise.pick(&[Formula::Polynomial, Formula::Sums, Formula::Product]),
        source: *noise.pick(&[Source::Traced, Source::Imported, Source::Compiled]),
    }
}

fn limit(noise: &mut Noise, tokens: usize) -> Limit {
    match noise.below(32) {
        0..=5 => Limit::Token(noise.below(tokens)),
        6 => Limit::Late,
        7 => Limit::Cancelled,
        8 | 9 => Limit::Soon(noise.below(500) as u64),
        _ => Limit::None,
    }
}

fn action(noise: &mut Noise, nodes: usize, given: &Given) -> Action {
    let &Given {
        streams, tokens, ..
    } = given;
    if given.asynchronous && noise.once_in(4) {
        return asynchronous(noise, nodes);
    }
    if given.scopes > 0 && noise.once_in(12) {
        let scope = noise.below(given.scopes);
        return match noise.below(4) {
            0 => Action::Limit(scope, None),
            1 | 2 => Action::Limit(scope, Some(room(noise))),
            _ => Action::Trim(scope),
        };
    }
    let id = any(noise, nodes);
    match noise.below(64) {
        0..=11 => Action::Eval(some(noise, nodes)),
        12..=21 => Action::AsyncEval(some(noise, nodes)),
        22..=33 => Action::Read(id),
        34..=38 => Action::Item(id),
        39..=41 => Action::Synchronize(noise.below(streams)),
        42..=46 => Action::Drop(noise.below(nodes)),
        47 | 48 => Action::Hold(id),
        49 | 50 => Action::Enter(noise.below(streams)),
        51 => Action::Leave,
        52 => Action::Cancel(noise.below(tokens)),
        53 => Action::ClearCache,
        54 | 55 => Action::DropStream(noise.below(streams)),
        56 => Action::DropFunction(callee(noise)),
        57 => Action::Model {
            // The small one more often.
            model: noise.below(MODEL_COUNT) * noise.below(2),
            compiled: noise.once_in(2),
            fresh: noise.once_in(3),
            terms: terms(noise, given),
        },
        58 => Action::CacheLimit(noise.below(64)),
        _ => Action::Yield,
    }
}

fn asynchronous(noise: &mut Noise, nodes: usize) -> Action {
    match noise.below(12) {
        0..=3 => Action::Spawn(some(noise, nodes)),
        4..=6 => Action::Run,
        7 => Action::Kill,
        8 | 9 => Action::Await(some(noise, nodes)),
        _ => Action::Abandon(some(noise, nodes), noise.below(3)),
    }
}

fn some(noise: &mut Noise, nodes: usize) -> Vec<Id> {
    let count = 1 + noise.below(3);
    (0..count).map(|_| any(noise, nodes)).collect()
}
