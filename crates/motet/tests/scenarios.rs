//! Situations that users of MLX reported, as requirements. Each test is named after its situation;
//! the number before it is that of the list in `docs/scenarios.md`.

mod common;

use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::thread;

use common::{Watched, model, on_both_paths};
use motet::ops::{add, exp, multiply};
use motet::prelude::*;
use motet::{Error, ErrorKind, async_eval, current_stream, default_stream, new_stream};

fn scalar(value: f32) -> Array {
    Array::from_slice(&[value], []).unwrap()
}

fn stream() -> Stream {
    new_stream(Device::CPU).unwrap()
}

#[test]
fn s01_mlx3078_two_models_two_threads() {
    on_both_paths(|compiled| {
        let (a, b) = (model("a", compiled), model("b", compiled));
        let (alone_a, alone_b) = (a.check(), b.check());
        thread::scope(|s| {
            s.spawn(|| (0..50).for_each(|_| assert_eq!(a.check(), alone_a)));
            s.spawn(|| (0..50).for_each(|_| assert_eq!(b.check(), alone_b)));
        });
    });
}

#[test]
fn s02_warmed_on_main_and_called_on_its_worker() {
    on_both_paths(|compiled| {
        let models = [model("a", compiled), model("b", compiled)];
        let warm: Vec<Vec<f32>> = models.iter().map(|m| m.check()).collect();
        thread::scope(|s| {
            for (model, warm) in models.iter().zip(&warm) {
                s.spawn(move || assert_eq!(&model.check(), warm));
            }
        });
    });
}

#[test]
fn s03_loaded_on_one_thread_called_on_random_ones() {
    on_both_paths(|compiled| {
        let model = thread::spawn(move || model("a", compiled)).join().unwrap();
        let first = thread::scope(|s| s.spawn(|| model.check()).join().unwrap());
        for _ in 0..20 {
            thread::scope(|s| s.spawn(|| assert_eq!(model.check(), first)).join().unwrap());
        }
    });
}

#[test]
fn s04_lazy_parameter_of_a_constructor_first_evaluated_on_a_worker() {
    let weight = multiply(scalar(3.0), scalar(4.0)).unwrap();
    let value = thread::spawn(move || weight.item::<f32>().unwrap());
    assert_eq!(value.join().unwrap(), 12.0);
}

#[test]
fn s05_lazy_array_outlives_its_thread() {
    let made = thread::spawn(|| exp(scalar(0.0)).unwrap()).join().unwrap();
    assert_eq!(made.item::<f32>().unwrap(), 1.0);
}

#[test]
fn s06_made_on_one_thread_under_a_stream_materialised_on_another() {
    let on = stream();
    let made = thread::spawn(move || with_stream(&on, || add(scalar(1.0), scalar(2.0)).unwrap()));
    let made = made.join().unwrap();
    assert_eq!(format!("{made:?}"), "Array(float32())");
    assert_eq!(made.to_vec::<f32>().unwrap(), [3.0]);
    assert_eq!(made.item::<f32>().unwrap(), 3.0);
}

#[test]
fn s07_async_eval_on_one_thread_read_on_another_while_the_first_goes_on() {
    let (send, receive) = mpsc::channel::<Array>();
    let reader = thread::spawn(move || {
        receive
            .iter()
            .map(|a| a.item::<f32>().unwrap())
            .collect::<Vec<f32>>()
    });
    let mut state = scalar(0.0);
    for _ in 0..200 {
        state = add(&state, scalar(1.0)).unwrap();
        async_eval(std::slice::from_ref(&state)).unwrap();
        send.send(state.clone()).unwrap();
    }
    drop(send);
    let expected: Vec<f32> = (1..=200).map(|i| i as f32).collect();
    assert_eq!(reader.join().unwrap(), expected);
}

#[test]
fn s08_stream_of_the_module_used_by_a_worker() {
    static STREAM: OnceLock<Stream> = OnceLock::new();
    STREAM.get_or_init(stream);
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let alone = model.check();
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let function = model.function.on(STREAM.get().unwrap());
                    assert_eq!(model.call(&function), alone);
                });
            }
        });
    });
}

#[test]
fn s09_a_task_that_hops_threads_between_steps() {
    let mut state = scalar(0.0);
    let mut expected = 0.0f32;
    for step in 0..100 {
        // Every step on a thread of its own; some evaluate, some leave their result lazy.
        state = thread::spawn(move || {
            let next = add(&state, scalar(step as f32)).unwrap();
            match step % 3 {
                0 => next.eval().unwrap(),
                1 => async_eval(std::slice::from_ref(&next)).unwrap(),
                _ => {}
            }
            next
        })
        .join()
        .unwrap();
        expected += step as f32;
    }
    assert_eq!(state.item::<f32>().unwrap(), expected);
}

#[test]
fn s10_contexts_nest_interleave_and_stay_on_their_thread() {
    let (outer, inner) = (stream(), stream());
    let before = current_stream().unwrap();
    let first = StreamContext::new(&outer);
    let second = StreamContext::new(&inner);
    assert_eq!(current_stream().unwrap(), inner);
    thread::scope(|s| {
        s.spawn(|| {
            let own = current_stream().unwrap();
            assert!(own != outer && own != inner && own != before);
        });
    });
    // Two tasks of one thread that interleave: the context entered first is left first.
    drop(first);
    assert_eq!(current_stream().unwrap(), inner);
    drop(second);
    assert_eq!(current_stream().unwrap(), before);
    with_stream(&outer, || {
        with_stream(&outer, || assert_eq!(current_stream().unwrap(), outer));
        assert_eq!(current_stream().unwrap(), outer);
    });
    assert_eq!(default_stream(Device::CPU).unwrap(), before);
}

#[test]
fn s11_prefill_on_one_thread_decode_on_another() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let alone = model.check();
        // The "cache": lazy results of one thread that the other goes on with.
        let cache = thread::scope(|s| {
            let call = || {
                model
                    .function
                    .call(std::slice::from_ref(&model.input))
                    .unwrap()
            };
            s.spawn(call).join().unwrap().remove(0)
        });
        let doubled = thread::spawn(move || add(&cache, &cache).unwrap().to_vec::<f32>().unwrap());
        let expected: Vec<f32> = alone.iter().map(|v| v + v).collect();
        assert_eq!(doubled.join().unwrap(), expected);
    });
}

#[test]
fn s12_many_threads_on_one_stream_keep_each_ones_order() {
    let on = stream();
    let log: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
    thread::scope(|s| {
        for caller in 0..8 {
            let (on, log) = (&on, &log);
            s.spawn(move || {
                for step in 0..50 {
                    let log = Arc::clone(log);
                    let note = Watched::with(move || {
                        log.lock().unwrap().push((caller, step));
                        Ok(())
                    });
                    let array = note.apply(&[scalar(step as f32)], on);
                    if step % 2 == 0 {
                        async_eval(std::slice::from_ref(&array)).unwrap();
                    } else {
                        assert_eq!(array.item::<f32>().unwrap(), step as f32 + 1.0);
                    }
                }
            });
        }
    });
    on.synchronize();
    let log = log.lock().unwrap();
    for caller in 0..8 {
        let steps = log
            .iter()
            .filter(|(c, _)| *c == caller)
            .map(|(_, step)| *step);
        assert!(steps.eq(0..50));
    }
}

#[test]
fn s15_async_evals_of_two_threads_run_in_order_of_submission() {
    let on = stream();
    let log: Arc<Mutex<Vec<usize>>> = Arc::default();
    for number in 0..100 {
        let (on, noted) = (on.clone(), Arc::clone(&log));
        // Each submission on a thread of its own, ended before the next starts.
        thread::spawn(move || {
            let note = Watched::with(move || {
                noted.lock().unwrap().push(number);
                Ok(())
            });
            async_eval(&[note.apply(&[], &on)]).unwrap();
        })
        .join()
        .unwrap();
    }
    on.synchronize();
    assert!(log.lock().unwrap().iter().copied().eq(0..100));
}

#[test]
fn s16_producer_and_consumer_streams_hand_over() {
    let (producer, consumer) = (stream(), stream());
    let (send, receive) = mpsc::sync_channel::<Array>(64);
    let watched = Watched::new();
    thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..20_000 {
                let made = watched.apply(&[], &producer);
                async_eval(std::slice::from_ref(&made)).unwrap();
                send.send(made).unwrap();
            }
            drop(send);
        });
        let mut total = scalar(0.0);
        for (number, made) in receive.iter().enumerate() {
            total = with_stream(&consumer, || add(&total, &made).unwrap());
            if number % 100 == 99 {
                total.eval().unwrap();
            }
        }
        assert_eq!(total.item::<f32>().unwrap(), 20_000.0);
    });
}

#[test]
fn s17_one_thread_makes_streams_while_another_evaluates() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let alone = model.check();
        thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..500 {
                    let made = with_stream(&stream(), || add(scalar(1.0), scalar(1.0)).unwrap());
                    assert_eq!(made.item::<f32>().unwrap(), 2.0);
                }
            });
            s.spawn(|| (0..200).for_each(|_| assert_eq!(model.check(), alone)));
        });
    });
}

#[test]
fn s18_a_stream_full_of_work_that_waits_for_another() {
    let (first, second) = (stream(), stream());
    let watched = Watched::new();
    let source = watched.apply(&[], &first);
    let waiting: Vec<Array> = (0..1000)
        .map(|_| watched.apply(std::slice::from_ref(&source), &second))
        .collect();
    async_eval(&waiting).unwrap();
    assert!(waiting.iter().all(|a| a.item::<f32>().unwrap() == 2.0));
    assert_eq!(watched.runs(), 1001);
}

#[test]
fn s20_64_threads_evaluate_one_lazy_graph_and_each_node_runs_once() {
    let watched = Watched::new();
    let on = [stream(), stream(), stream()];
    let mut top = watched.apply(&[], &on[0]);
    for i in 0..30 {
        let left = watched.apply(std::slice::from_ref(&top), &on[i % 3]);
        top = watched.apply(&[top, left], &on[(i + 1) % 3]);
    }
    let start = Barrier::new(64);
    let values: Vec<f32> = thread::scope(|s| {
        let read = || {
            start.wait();
            top.item::<f32>().unwrap()
        };
        let threads: Vec<_> = (0..64).map(|_| s.spawn(read)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(values.iter().all(|v| *v == values[0]));
    assert_eq!(watched.runs(), 61);
}

#[test]
fn s21_evaluations_that_share_interior_nodes_in_both_orders() {
    for _ in 0..200 {
        let watched = Watched::new();
        let (s1, s2) = (stream(), stream());
        let q = watched.apply(&[], &s1);
        let y = watched.apply(std::slice::from_ref(&q), &s2);
        let p = watched.apply(std::slice::from_ref(&y), &s1);
        let start = Barrier::new(2);
        thread::scope(|s| {
            s.spawn(|| {
                start.wait();
                eval(&[p.clone(), y.clone()]).unwrap();
            });
            s.spawn(|| {
                start.wait();
                eval(&[y.clone(), q.clone()]).unwrap();
            });
        });
        assert_eq!((p.item::<f32>().unwrap(), watched.runs()), (3.0, 3));
    }
}

#[test]
fn s22_two_threads_evaluate_two_outputs_of_one_operation() {
    for _ in 0..200 {
        let watched = Watched::new();
        let outputs = watched.outputs(2, &[], &stream());
        thread::scope(|s| {
            for output in &outputs {
                s.spawn(|| assert_eq!(output.item::<f32>().unwrap(), 1.0));
            }
        });
        assert_eq!(watched.runs(), 1);
    }
}

#[test]
fn s23_an_input_is_dropped_while_its_user_is_evaluated() {
    for _ in 0..200 {
        let data = vec![1.0f32; 4096];
        let x = exp(Array::from_slice(&data, [4096]).unwrap()).unwrap();
        let y = add(&x, &x).unwrap();
        thread::scope(|s| {
            let value = s.spawn(|| y.to_vec::<f32>().unwrap());
            s.spawn(move || drop(x));
            let value = value.join().unwrap();
            assert!(
                value
                    .iter()
                    .all(|v| *v == value[0] && (*v - 2.0 * 1f32.exp()).abs() < 1e-5)
            );
        });
    }
}

#[test]
fn s24_an_input_is_cloned_while_its_user_is_evaluated() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let before = model.input.to_vec::<f32>().unwrap();
        thread::scope(|s| {
            s.spawn(|| (0..200).for_each(|_| drop(model.check())));
            s.spawn(|| {
                for _ in 0..200 {
                    let copy = model.input.clone();
                    assert_eq!(copy.to_vec::<f32>().unwrap(), before);
                }
            });
        });
    });
}

#[test]
fn s25_a_graph_a_million_deep_on_a_small_stack() {
    let deep = |depth: usize| {
        let (watched, on) = (Watched::new(), stream());
        (0..depth).fold(scalar(0.0), |x, _| watched.apply(&[x], &on))
    };
    let small = thread::Builder::new().stack_size(512 << 10);
    let work = move || {
        drop(deep(1_000_000));
        assert_eq!(deep(1_000_000).item::<f32>().unwrap(), 1e6);
    };
    small.spawn(work).unwrap().join().unwrap();
}

#[test]
fn s26_one_compiled_function_from_many_cold_threads() {
    let model = model("b", true);
    let start = Barrier::new(16);
    let outputs: Vec<Vec<f32>> = thread::scope(|s| {
        let call = || {
            start.wait();
            model.check()
        };
        let threads: Vec<_> = (0..16).map(|_| s.spawn(call)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(outputs.iter().all(|o| *o == outputs[0]));
}

#[test]
fn s31_an_error_or_panic_in_one_graph_reaches_its_dependants_alone() {
    let on = stream();
    let fails = Watched::with(|| Err(Error::invalid("Watched", "made to fail")));
    let panics = Watched::with(|| panic!("made to panic"));
    let works = Watched::new();
    thread::scope(|s| {
        for bad in [&fails, &panics] {
            s.spawn(|| {
                for _ in 0..100 {
                    let failed = works.apply(&[bad.apply(&[], &on)], &on);
                    let error = failed.eval().unwrap_err();
                    assert!(error.to_string().contains("made to"), "{error}");
                    assert!(error.to_string().contains("Watched"), "{error}");
                }
            });
        }
        s.spawn(|| {
            for _ in 0..200 {
                assert_eq!(works.apply(&[], &on).item::<f32>().unwrap(), 1.0);
            }
        });
    });
}

#[test]
fn s31_bad_input_is_an_error() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let wrong = [
            Array::from_slice(&[0.0f32; 15], [1, 15]).unwrap(),
            Array::from_slice(&[0i32; 16], [1, 16]).unwrap(),
        ];
        for input in wrong {
            let error = model.function.call(&[input]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(
                error.to_string().contains("expected (float32(1,16))"),
                "{error}"
            );
        }
        assert!(model.function.call(&[]).is_err());
        let named = [("x", model.input.clone())];
        assert!(model.function.call_with(&[], &named).is_err());
        model.check();
    });
}

#[test]
fn s32_a_cancelled_call_leaves_others_alone() {
    on_both_paths(|compiled| {
        let model = model("tiny", compiled);
        let token = motet::CancelToken::new();
        let function = model.function.cancelled_by(&token);
        let alone = model.call(&function);
        let lazy = function.call(std::slice::from_ref(&model.input)).unwrap();
        token.cancel();
        assert_eq!(lazy[0].eval().unwrap_err().kind(), ErrorKind::Cancelled);
        let late = model.function.deadline(std::time::Instant::now());
        let late = late.call(std::slice::from_ref(&model.input)).unwrap();
        assert_eq!(
            late[0].eval().unwrap_err().kind(),
            ErrorKind::DeadlineExceeded
        );
        assert_eq!(model.check(), alone);
    });
}

#[test]
fn s39_two_models_of_one_kind() {
    on_both_paths(|compiled| {
        let models = [model("b", compiled), model("b", compiled)];
        let alone = models[0].check();
        thread::scope(|s| {
            for model in &models {
                s.spawn(|| (0..30).for_each(|_| assert_eq!(model.check(), alone)));
            }
        });
    });
}
