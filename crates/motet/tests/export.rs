//! Closures traced, exported, imported again, compiled; and what tracing refuses.

mod common;

use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Watched, model, on_both_paths};
use motet::{
    Array, ErrorKind, ExportOptions, Exporter, Function, Keywords, Result, compile,
    export_function, exporter, import_function, ops,
};
use motet_core::ops::elementwise::DivMod;
use motet_core::ops::shape::Transpose;

/// A file name of its own for each test, removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        let name = format!("motet-export-{}-{name}.mlxfn", std::process::id());
        File(std::env::temp_dir().join(name))
    }

    /// The exported function as it is and compiled.
    fn import(&self) -> [Function; 2] {
        let function = import_function(&self.0).unwrap();
        [function.compile(), function]
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn array(data: &[f32], shape: &[usize]) -> Array {
    Array::from_slice(data, shape).unwrap()
}

fn transpose(x: &Array) -> Array {
    let permutation = (0..x.shape().len() as i32).rev().collect();
    ops::apply(Transpose { permutation }, std::slice::from_ref(x))
        .unwrap()
        .remove(0)
}

fn values(outputs: &[Array]) -> Vec<Vec<f32>> {
    let values = outputs.iter().map(|output| output.to_vec().unwrap());
    values.collect()
}

/// `f` exported, imported and called gives what `f` gives; so does `f` compiled. Returns the graph
/// as text.
fn assert_exports<F>(name: &str, f: F, inputs: &[Array]) -> String
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync + 'static,
{
    let file = File::new(name);
    export_function(&file.0, &f, inputs).unwrap();
    let expected = values(&f(inputs).unwrap());
    for function in file.import() {
        assert_close(&values(&function.call(inputs).unwrap()), &expected);
    }
    let graph = file.import()[0].signatures()[0].to_string();
    assert_close(&values(&compile(f).call(inputs).unwrap()), &expected);
    graph
}

/// Plans sum products in another order than operations do one by one.
fn assert_close(got: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            let rounding = 4.0 * f32::EPSILON * expected.abs().max(1.0);
            assert!((got - expected).abs() <= rounding, "{got} {expected}");
        }
    }
}

#[test]
fn constants_are_stored_as_they_are_seen() {
    let matrix = array(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    // Evaluated views of it: transposed, and one row repeated.
    let views = [
        transpose(&matrix),
        ops::broadcast_to(&array(&[7.0, 8.0], &[2]), [3, 2]).unwrap(),
    ];
    motet::eval(&views).unwrap();
    let f = move |x: &[Array]| {
        let sum = ops::add(&x[0], &views[0])?;
        Ok(vec![ops::multiply(&sum, &views[1])?])
    };
    let graph = assert_exports("views", f, &[array(&[0.5; 6], &[3, 2])]);
    assert_eq!(graph.matches("= constant").count(), 2);
    assert!(!graph.contains("Transpose") && !graph.contains("Broadcast"));
}

#[test]
fn lazy_captures_are_recorded_and_evaluated_ones_are_constants() {
    let (one, two) = (array(&[1.0], &[1]), array(&[2.0], &[1]));
    let sum = ops::add(&one, &two).unwrap();
    let captured = sum.clone();
    let f = move |x: &[Array]| Ok(vec![ops::multiply(&x[0], &captured)?, captured.clone()]);
    let example = [array(&[5.0], &[1])];
    let file = File::new("lazy");
    export_function(&file.0, &f, &example).unwrap();
    let graph = file.import()[0].signatures()[0].to_string();
    assert!(graph.contains("= Add"), "{graph}");
    assert_eq!(graph.matches("= constant").count(), 2);
    sum.eval().unwrap();
    let graph = assert_exports("evaluated", f, &example);
    assert!(!graph.contains("= Add"), "{graph}");
    assert_eq!(graph.matches("= constant").count(), 1);
}

/// MLX crashes on those that are not.
#[test]
fn axes_are_recorded_from_the_start() {
    let f = |x: &[Array]| {
        let pair = ops::concatenate(&[x[0].clone(), x[0].clone()], -1)?;
        let running = ops::cumsum(&pair, -2, ops::Scan::default())?;
        let apart = ops::unflatten(&running, -1, [2, 2])?;
        let least = ops::argmin(&apart, -1)?;
        let sorted = ops::sort(&apart, -1)?;
        let order = ops::argsort(&sorted, -2)?;
        Ok(vec![ops::take_along_axis(&sorted, &order, -2)?, least])
    };
    let x = array(&[3.0, 1.0, 2.0, 5.0], &[2, 2]);
    let file = File::new("axes");
    export_function(&file.0, f, std::slice::from_ref(&x)).unwrap();
    let graph = file.import()[0].signatures()[0].to_string();
    assert!(
        graph.contains("axis: ") && !graph.contains("axis: -"),
        "{graph}"
    );
}

#[test]
fn unused_inputs_repeated_outputs_and_inputs_as_outputs() {
    let f = |x: &[Array]| {
        let sum = ops::add(&x[0], &x[2])?;
        Ok(vec![sum.clone(), x[0].clone(), sum.clone(), sum])
    };
    let inputs = [1.0, 2.0, 3.0].map(|value| array(&[value], &[1]));
    let graph = assert_exports("outputs", f, &inputs);
    assert!(graph.ends_with("return v3 v0 v3 v3"), "{graph}");
    assert_exports("identity", |x| Ok(x.to_vec()), &inputs);
    assert_exports("nothing", |_| Ok(Vec::new()), &inputs);
    assert_exports("no inputs", |_| Ok(vec![array(&[4.0], &[1])]), &[]);
}

#[test]
fn one_entry_stands_for_all_outputs_of_an_operation() {
    let div_mod = |x: &[Array]| ops::apply(DivMod, x);
    let inputs = [array(&[7.0, -7.0], &[2]), array(&[2.0, 2.0], &[2])];
    let graph = assert_exports("both", move |x| div_mod(x), &inputs);
    assert_eq!(graph.matches("DivMod").count(), 1);
    let second = move |x: &[Array]| {
        let both = div_mod(x)?;
        Ok(vec![ops::exp(&both[1])?, both[0].clone()])
    };
    let graph = assert_exports("second first", second, &inputs);
    assert_eq!(graph.matches("DivMod").count(), 1);
}

#[test]
fn called_functions_become_part_of_the_graph() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let inner = model.function.clone();
        let twice = move |x: &[Array]| {
            let first = inner.call(x)?;
            let second = inner.call(x)?;
            Ok(vec![ops::add(&first[0], &second[0])?])
        };
        let graph = assert_exports("nested", twice, std::slice::from_ref(&model.input));
        let alone = model.function.signatures()[0].to_string();
        let constants = |graph: &str| graph.matches("= constant").count();
        assert_eq!(constants(&graph), constants(&alone), "weights are shared");
        let nodes = model.function.signatures()[0].nodes.len();
        let expected = 2 * nodes + 1;
        assert_eq!(graph.lines().count(), 1 + constants(&graph) + expected + 1);
    });
}

#[test]
fn traced_functions_call_traced_functions() {
    let inner = compile(|x| Ok(vec![ops::exp(&x[0])?]));
    let outer = compile(move |x| {
        let e = inner.call(x)?.remove(0);
        Ok(vec![ops::add(&e, &e)?])
    });
    assert_exports("traced", move |x| outer.call(x), &[array(&[0.0], &[1])]);
}

#[test]
fn deep_chains_take_no_stack() {
    const DEPTH: usize = 100_000;
    let test = || {
        let one = array(&[1.0], &[1]);
        let f = move |x: &[Array]| {
            let mut sum = x[0].clone();
            for _ in 0..DEPTH {
                sum = ops::add(&sum, &one)?;
            }
            Ok(vec![sum])
        };
        let file = File::new("deep");
        export_function(&file.0, f, &[array(&[1.0], &[1])]).unwrap();
        let nodes = file.import()[1].signatures()[0].nodes.len();
        assert_eq!(nodes, DEPTH);
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    thread.spawn(test).unwrap().join().unwrap();
}

#[test]
fn streams_become_lanes() {
    let other = motet::new_stream(motet::Device::CPU).unwrap();
    let f = |x: &[Array]| {
        let a = ops::exp(&x[0])?;
        let b = motet::with_stream(&other, || ops::exp(&a))?;
        Ok(vec![ops::add(&a, &b)?])
    };
    let file = File::new("lanes");
    let inputs = [array(&[0.5], &[1])];
    export_function(&file.0, f, &inputs).unwrap();
    let [compiled, eager] = file.import();
    let lanes = eager.signatures()[0].nodes.iter().map(|node| node.lane);
    assert_eq!(lanes.collect::<Vec<_>>(), [0, 1, 0]);
    let expected = values(&f(&inputs).unwrap());
    assert_eq!(values(&eager.call(&inputs).unwrap()), expected);
    assert_eq!(values(&compiled.call(&inputs).unwrap()), expected);
}

/// Fails, and says this.
fn assert_refused(result: Result<impl Sized>, says: &str) {
    let error = result.err().expect("must be refused");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn placeholders_cannot_be_evaluated() {
    let x = array(&[1.0], &[1]);
    let says = "cannot evaluate inside of a traced function";
    type Misuse = fn(&Array) -> Result<()>;
    let misuses: [Misuse; 6] = [
        |x| x.eval(),
        |x| x.item::<f32>().map(drop),
        |x| x.to_vec::<f32>().map(drop),
        |x| motet::async_eval(std::slice::from_ref(x)),
        |x| ops::exp(&ops::exp(x)?)?.eval(),
        |x| motet::eval(&[array(&[1.0], &[1]), ops::add(x, x)?]),
    ];
    for misuse in misuses {
        let f = move |x: &[Array]| misuse(&x[0]).map(|()| x.to_vec());
        let file = File::new("misuse");
        assert_refused(export_function(&file.0, f, std::slice::from_ref(&x)), says);
        assert!(!file.0.exists());
        assert_refused(compile(f).call(std::slice::from_ref(&x)), says);
    }
    // A placeholder that was carried out of the function.
    let escaped = std::sync::Mutex::new(None);
    let file = File::new("escaped");
    let f = |x: &[Array]| {
        *escaped.lock().unwrap() = Some(x[0].clone());
        Ok(x.to_vec())
    };
    export_function(&file.0, f, std::slice::from_ref(&x)).unwrap();
    let escaped = escaped.into_inner().unwrap().unwrap();
    assert_refused(ops::exp(&escaped).unwrap().eval(), says);
    let captures = move |x: &[Array]| Ok(vec![ops::add(&x[0], &escaped)?]);
    assert_refused(
        export_function(&file.0, captures, &[x]),
        "of another function that is being traced",
    );
}

#[test]
fn what_no_graph_can_say_is_refused() {
    let stream = motet::current_stream().unwrap();
    let watched = Watched::new();
    let f = |x: &[Array]| Ok(vec![watched.apply(x, &stream)]);
    let file = File::new("watched");
    let error = export_function(&file.0, f, &[array(&[1.0], &[])]).unwrap_err();
    assert_eq!((error.kind(), watched.runs()), (ErrorKind::Unsupported, 0));
    assert!(error.to_string().contains("Watched"), "{error}");
    // What was computed meanwhile is a constant; what failed is the caller's error.
    let done = Watched::new().apply(&[], &stream);
    done.eval().unwrap();
    assert_exports("watched", move |_| Ok(vec![done.clone()]), &[]);
    let fails = || Err(motet::Error::unsupported("Watched", "on purpose"));
    let failed = Watched::with(fails).apply(&[], &stream);
    assert!(failed.eval().is_err());
    let error = export_function(&file.0, |_| Ok(vec![failed.clone()]), &[]).unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
}

fn sum(x: &[Array], keywords: &Keywords) -> Result<Vec<Array>> {
    let mut sum = x[0].clone();
    for more in x[1..].iter().chain(keywords.values()) {
        sum = ops::add(&sum, more)?;
    }
    Ok(vec![sum])
}

fn sums(file: &File) -> Exporter<'static> {
    let options = ExportOptions {
        metadata: "sums ♪".to_owned(),
        ..ExportOptions::default()
    };
    exporter(&file.0, sum, options)
}

#[test]
fn one_file_has_several_signatures() {
    let file = File::new("several");
    let (a, b) = (array(&[1.0], &[1]), array(&[2.0, 3.0], &[2]));
    let mut sums = sums(&file);
    sums.call(std::slice::from_ref(&a)).unwrap();
    sums.call(std::slice::from_ref(&b)).unwrap();
    sums.call(&[a.clone(), b.clone()]).unwrap();
    // In whatever order keywords are given, they are stored in ascending order.
    let keywords = [("z", b.clone()), ("a", a.clone())];
    sums.call_with(std::slice::from_ref(&a), &keywords).unwrap();
    assert!(!file.0.exists());
    sums.close().unwrap();
    for function in file.import() {
        assert_eq!(function.file().metadata, "sums ♪");
        let called = |inputs: &[Array], keywords: &[(&str, Array)]| {
            values(&function.call_with(inputs, keywords).unwrap()).remove(0)
        };
        assert_eq!(called(std::slice::from_ref(&a), &[]), [1.0]);
        assert_eq!(called(std::slice::from_ref(&b), &[]), [2.0, 3.0]);
        assert_eq!(called(&[a.clone(), b.clone()], &[]), [3.0, 4.0]);
        assert_eq!(called(std::slice::from_ref(&a), &keywords), [4.0, 5.0]);
        assert!(function.call(&[b.clone(), b.clone()]).is_err());
        assert_eq!(function.signatures()[3].keywords, ["a", "z"]);
    }
}

#[test]
fn a_signature_is_exported_once() {
    let (a, b) = (array(&[1.0], &[1]), array(&[2.0, 3.0], &[2]));
    let file = File::new("twice");
    let mut sums = sums(&file);
    sums.call(std::slice::from_ref(&a)).unwrap();
    let again = sums.call(std::slice::from_ref(&a));
    assert_refused(again, "exported with this signature before");
    let keywords = [("a", a.clone()), ("a", b.clone())];
    let repeated = sums.call_with(std::slice::from_ref(&a), &keywords);
    assert_refused(repeated, "occurs twice");
    // What failed does not stand in the way of the rest.
    sums.call(&[b, a]).unwrap();
    sums.close().unwrap();
    assert_eq!(file.import()[0].signatures().len(), 2);
}

#[test]
fn a_failed_export_leaves_the_old_file() {
    let file = File::new("kept");
    let x = [array(&[1.0], &[1])];
    export_function(&file.0, |x| Ok(x.to_vec()), &x).unwrap();
    let fails = |_: &[Array]| Err(motet::Error::invalid("f", "on purpose"));
    assert_refused(export_function(&file.0, fails, &x), "on purpose");
    drop(sums(&file));
    assert_eq!(values(&file.import()[0].call(&x).unwrap()), [[1.0]]);
    // A function may be replaced by one that uses what the file holds.
    let one = array(&[1.0], &[1]);
    for expected in [2.0, 3.0, 4.0] {
        let [_, inner] = file.import();
        let f = |x: &[Array]| Ok(vec![ops::add(&inner.call(x)?[0], &one)?]);
        export_function(&file.0, f, &x).unwrap();
        assert_eq!(values(&file.import()[0].call(&x).unwrap()), [[expected]]);
    }
}

#[test]
fn imported_functions_are_exported_again() {
    on_both_paths(|compiled| {
        for name in ["a", "b", "tiny"] {
            let model = model(name, compiled);
            let file = File::new(name);
            model.function.export(&file.0).unwrap();
            for function in file.import() {
                let texts = [&function, &model.function].map(|f| f.signatures()[0].to_string());
                assert_eq!(texts[0], texts[1]);
            }
            let [compiled_again, again] = file.import();
            let again = if compiled { compiled_again } else { again };
            let output = model.check();
            assert_eq!(model.call(&again), output);
        }
    });
    let file = File::new("closure");
    let closure = compile(|x| Ok(x.to_vec()));
    assert_refused(closure.export(&file.0), "export_function");
}

#[test]
fn closures_are_traced_once_for_each_signature() {
    static TRACES: AtomicUsize = AtomicUsize::new(0);
    let double = compile(|x| {
        TRACES.fetch_add(1, Ordering::Relaxed);
        Ok(vec![ops::add(&x[0], &x[0])?])
    });
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for size in 1..=3 {
                    let x = [array(&vec![1.5; size], &[size])];
                    let y = values(&double.call(&x).unwrap());
                    assert_eq!(y, [vec![3.0; size]]);
                }
            });
        }
    });
    assert_eq!(TRACES.load(Ordering::Relaxed), 3);
    let keyword = [("k", array(&[1.0], &[1]))];
    assert_refused(double.call_with(&[], &keyword), "inputs without names");
}

#[test]
fn threads_trace_at_once() {
    let shared = ops::exp(array(&[0.25; 4], &[4])).unwrap();
    let threads = 4;
    let inside = Barrier::new(threads);
    let start = &inside;
    std::thread::scope(|scope| {
        for number in 0..threads {
            let shared = &shared;
            scope.spawn(move || {
                let file = File::new(&format!("thread-{number}"));
                let f = |x: &[Array]| {
                    // All are being traced now, and one evaluates what the others record.
                    start.wait();
                    if number == 0 {
                        shared.eval()?;
                    }
                    Ok(vec![ops::multiply(&x[0], shared)?])
                };
                let x = [array(&[number as f32; 4], &[4])];
                export_function(&file.0, f, &x).unwrap();
                let expected = values(&[ops::multiply(&x[0], shared).unwrap()]);
                for function in file.import() {
                    assert_eq!(values(&function.call(&x).unwrap()), expected);
                }
            });
        }
    });
}

#[test]
fn shapeless_functions_broadcast_in_each_call() {
    let row = array(&[1.0, 2.0], &[2]);
    let f = |x: &[Array], _: &Keywords| Ok(vec![(&x[0] + &row) * &x[1] + 1.0]);
    let options = ExportOptions {
        shapeless: true,
        ..ExportOptions::default()
    };
    let file = File::new("shapeless");
    let mut shapeless = exporter(&file.0, f, options);
    let column = array(&[1.0, 2.0, 3.0], &[3, 1]);
    let matrix = array(&[1.0; 6], &[3, 2]);
    shapeless.call(&[matrix.clone(), column.clone()]).unwrap();
    let again = shapeless.call(&[column.clone(), matrix.clone()]);
    assert_refused(again, "exported with this signature before");
    shapeless.close().unwrap();
    let one = array(&[4.0], &[1, 1]);
    for function in file.import() {
        for inputs in [
            [&matrix, &column],
            [&column, &matrix],
            [&one, &column],
            [&one, &one],
        ] {
            let inputs = inputs.map(Clone::clone);
            let expected = values(&f(&inputs, &Keywords::new()).unwrap());
            assert_eq!(values(&function.call(&inputs).unwrap()), expected);
        }
        let wrong = [array(&[1.0; 6], &[2, 3]), column.clone()];
        assert!(function.call(&wrong).is_err());
    }
}

#[test]
fn shapeless_functions_count_and_multiply_in_each_call() {
    let weight = array(&[1.0, -2.0, 0.5, 3.0, 1.5, -1.0], &[2, 3]);
    let bias = array(&[0.5, 1.0, -1.0], &[3]);
    let vector = array(&[2.0, -1.0], &[2]);
    let f = |x: &[Array], _: &Keywords| {
        let first = ops::argmax(&x[0], ops::keepdims(-1))?;
        Ok(vec![
            ops::mean(&x[0], ..)?,
            ops::var(&x[0], 1, 1)?,
            ops::addmm(&bias, &x[0], &weight, 2.0, 0.5)?,
            ops::matmul(&x[0], &vector)?,
            ops::take_along_axis(&x[0], &first, -1)?,
        ])
    };
    let options = ExportOptions {
        shapeless: true,
        ..ExportOptions::default()
    };
    let file = File::new("shapeless_counts");
    let mut shapeless = exporter(&file.0, f, options);
    let example = [ops::reshape(
        &ops::arange(0, 12, 1, motet::Dtype::Float32).unwrap(),
        [2, 3, 2],
    )
    .unwrap()];
    shapeless.call(&example).unwrap();
    shapeless.close().unwrap();
    let noise = |shape: [usize; 3]| {
        let key = motet::random::key(5).unwrap();
        motet::random::uniform(-1, 1, shape, None, Some(&key)).unwrap()
    };
    for function in file.import() {
        for input in [noise([2, 3, 2]), noise([4, 2, 2]), noise([1, 7, 2])] {
            let inputs = [input];
            let expected = f(&inputs, &Keywords::new()).unwrap();
            let got = function.call(&inputs).unwrap();
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(got.shape(), expected.shape());
                let close = ops::allclose(got, expected, Default::default()).unwrap();
                assert!(close.item::<bool>().unwrap());
            }
        }
    }
}
