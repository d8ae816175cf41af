//! Situations that users of MLX reported, as in `scenarios.rs`: those about tracing, compiling, where
//! a function runs, and that its results are the same everywhere.

mod common;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use common::{Watched, model, on_both_paths};
use motet::prelude::*;
use motet::{DeviceType, Error, ErrorKind, ExportOptions, async_eval, compile, new_stream};

fn stream() -> Stream {
    new_stream(Device::CPU).unwrap()
}

fn numbers(shape: &[usize]) -> Array {
    let count: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|i| (i % 23) as f32 / 7.0 - 1.5).collect();
    Array::from_slice(&numbers, shape).unwrap()
}

#[test]
fn s27_tracing_on_one_thread_while_another_evaluates() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let alone = model.check();
        let (tracing, evaluated) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let function = {
            let (tracing, evaluated) = (Arc::clone(&tracing), Arc::clone(&evaluated));
            compile(move |x| {
                let half = &x[0] * 0.5;
                // The other thread does all it does while this one is in the middle of a trace.
                tracing.wait();
                evaluated.wait();
                Ok(vec![half + 1.0])
            })
        };
        let x = Array::from_slice(&[2.0f32, 4.0], [2]).unwrap();
        thread::scope(|s| {
            let traced = s.spawn(|| function.call(std::slice::from_ref(&x)).unwrap());
            tracing.wait();
            assert_eq!(model.check(), alone);
            // The very array that the other thread's trace began with has a value here.
            assert_eq!((&x * 3.0).to_vec::<f32>().unwrap(), [6.0, 12.0]);
            let other = compile(|x| Ok(vec![&x[0] + &x[0]]));
            let other = other.call(std::slice::from_ref(&x)).unwrap();
            assert_eq!(other[0].to_vec::<f32>().unwrap(), [4.0, 8.0]);
            evaluated.wait();
            let traced = traced.join().unwrap();
            assert_eq!(traced[0].to_vec::<f32>().unwrap(), [2.0, 3.0]);
        });
    });
}

#[test]
fn s28_the_first_trace_fails_while_others_wait_for_it() {
    for panics in [false, true] {
        let (traces, tracing) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(4)));
        let function = {
            let (traces, tracing) = (Arc::clone(&traces), Arc::clone(&tracing));
            compile(move |x| {
                if traces.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing.wait();
                    match panics {
                        true => panic!("made to panic"),
                        false => return Err(Error::invalid("test", "made to fail")),
                    }
                }
                Ok(vec![&x[0] + 1.0])
            })
        };
        let x = Array::from_slice(&[1.0f32], [1]).unwrap();
        let call = || function.call(std::slice::from_ref(&x))?[0].item::<f32>();
        thread::scope(|s| {
            let first = s.spawn(call);
            // They call while the first trace has not ended: they wait for it and hear how it ended,
            // or come when it is over and trace anew.
            let others: Vec<_> = (0..3)
                .map(|_| {
                    s.spawn(|| {
                        tracing.wait();
                        call()
                    })
                })
                .collect();
            let results = std::iter::once(first).chain(others);
            for result in results.map(|thread| thread.join().unwrap()) {
                match result {
                    Ok(value) => assert_eq!(value, 2.0),
                    Err(error) => assert!(error.to_string().contains("made to"), "{error}"),
                }
            }
        });
        assert_eq!(call().unwrap(), 2.0);
        assert!(traces.load(Ordering::Relaxed) <= 2);
    }
}

#[test]
fn s29_the_same_kernels_are_made_by_many_threads_at_once() {
    on_both_paths(|compiled| {
        let alone = model("a", compiled).check();
        let start = Barrier::new(8);
        thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    // Each has a function of its own, with the same weights to pack.
                    let model = model("a", compiled);
                    start.wait();
                    assert_eq!(model.check(), alone);
                });
            }
        });
    });
}

#[test]
fn s29_each_signature_is_traced_once() {
    let traces = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&traces);
    let function = compile(move |x| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(vec![&x[0] + &x[0]])
    });
    let start = Barrier::new(12);
    thread::scope(|s| {
        for thread in 0..12 {
            let (function, start) = (&function, &start);
            s.spawn(move || {
                let x = numbers(&[1 + thread % 4]);
                start.wait();
                let doubled = function.call(std::slice::from_ref(&x)).unwrap();
                let expected: Vec<f32> = x.to_vec::<f32>().unwrap().iter().map(|x| x + x).collect();
                assert_eq!(doubled[0].to_vec::<f32>().unwrap(), expected);
            });
        }
    });
    assert_eq!(traces.load(Ordering::Relaxed), 4);
}

#[test]
fn s30_a_function_runs_on_the_stream_of_its_caller() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let alone = model.check();
        let (blocked, free) = (stream(), stream());
        let (release, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let released = Arc::new(AtomicBool::new(false));
        let blocking = {
            let released = Arc::clone(&released);
            Watched::with(move || {
                wait.lock().unwrap().recv().unwrap();
                released.store(true, Ordering::Release);
                Ok(())
            })
        };
        async_eval(&[blocking.apply(&[], &blocked)]).unwrap();
        // None of these is behind the one that waits.
        assert_eq!(model.call(&model.function.on(&free)), alone);
        assert_eq!(with_stream(&free, || model.call(&model.function)), alone);
        assert_eq!(model.check(), alone);
        // And these are: what uses their results runs when the other has ended.
        let input = std::slice::from_ref(&model.input);
        let named = model.function.on(&blocked).call(input).unwrap();
        let current = with_stream(&blocked, || model.function.call(input).unwrap());
        let users = [named, current].map(|outputs| {
            let released = Arc::clone(&released);
            let after = Watched::with(move || match released.load(Ordering::Acquire) {
                true => Ok(()),
                false => Err(Error::invalid("test", "ran too early")),
            });
            let user = after.apply(&[ops::sum(&outputs[0], ..).unwrap()], &free);
            async_eval(std::slice::from_ref(&user)).unwrap();
            user
        });
        release.send(()).unwrap();
        users.iter().for_each(|user| user.eval().unwrap());
    });
    let gpu = Device {
        kind: DeviceType::Gpu,
        index: 0,
    };
    let missing = new_stream(gpu).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unsupported);
}

#[test]
fn s38_concurrent_calls_whose_last_batch_is_smaller() {
    const ROWS: usize = 11;
    let weights = numbers(&[16, 8]);
    let f = move |x: &[Array]| {
        let scores = ops::softmax(&ops::matmul(&x[0], &weights)?, -1)?;
        Ok(vec![scores])
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batches.mlxfn");
    let options = ExportOptions {
        shapeless: true,
        ..ExportOptions::default()
    };
    let mut exporter = motet::exporter(&path, |x: &[Array], _: &_| f(x), options);
    exporter.call(&[numbers(&[4, 16])]).unwrap();
    exporter.close().unwrap();
    let imported = motet::import_function(&path).unwrap();
    let data = numbers(&[ROWS, 16]).to_vec::<f32>().unwrap();

    for function in [imported.clone(), imported.compile(), compile(f)] {
        let batches = |size: usize| -> Vec<Vec<f32>> {
            let call = |rows: &[f32]| {
                let rows = Array::from_slice(rows, [rows.len() / 16, 16]).unwrap();
                function.call(&[rows]).unwrap()[0].to_vec::<f32>().unwrap()
            };
            data.chunks(16 * size).map(call).collect()
        };
        let sizes = [4, 3, 2];
        // Cold, from all threads at once.
        let outputs: Vec<_> = thread::scope(|s| {
            let threads: Vec<_> = (0..9)
                .map(|thread| {
                    let batches = &batches;
                    s.spawn(move || batches(sizes[thread % 3]))
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let rows: Vec<f32> = batches(1).concat();
        for (thread, output) in outputs.iter().enumerate() {
            assert_eq!(*output, batches(sizes[thread % 3]), "{thread}");
            let output = output.concat();
            assert_eq!(output.len(), rows.len());
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
            assert!(output.iter().zip(&rows).all(near));
        }
    }
}

/// What a set of computations gives, to the bit: large enough that regions are opened for them.
fn digest() -> u64 {
    let mut hash = DefaultHasher::new();
    let mut note = |values: Vec<f32>| values.iter().for_each(|v| v.to_bits().hash(&mut hash));
    for compiled in [false, true] {
        for name in ["tiny", "a", "b"] {
            note(model(name, compiled).check());
        }
        let work = |x: &[Array]| {
            let product = ops::matmul(&x[0], &x[0])?;
            let soft = ops::softmax(&product, -1)?;
            Ok(vec![
                ops::sum(&ops::exp(ops::multiply(&x[0], 0.25)?)?, ..)?,
                ops::cumsum(&x[0], 0, ops::Scan::default())?,
                ops::mean(&soft, 0)?,
                product,
            ])
        };
        let x = [numbers(&[300, 300])];
        let outputs = match compiled {
            true => compile(work).call(&x).unwrap(),
            false => work(&x).unwrap(),
        };
        outputs
            .iter()
            .for_each(|output| note(output.to_vec().unwrap()));
    }
    hash.finish()
}

#[test]
fn s46_the_same_bits_with_any_number_of_threads() {
    const CHILD: &str = "MOTET_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let alone = digest();
        for threads in [2, 8] {
            thread::scope(|s| {
                let digests: Vec<_> = (0..threads).map(|_| s.spawn(digest)).collect();
                digests
                    .into_iter()
                    .for_each(|d| assert_eq!(d.join().unwrap(), alone));
            });
        }
        println!("digest {alone:016x}");
        return;
    }
    // The number of cores is read once per process.
    let digests = ["1", "2", "7"].map(|cores| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "s46_the_same_bits_with_any_number_of_threads"])
            .arg("--nocapture")
            .env(CHILD, "1")
            .env("MOTET_NUM_THREADS", cores)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let at = text.find("digest ").unwrap();
        text[at..at + 23].to_owned()
    });
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}
