//! Every sample of every primitive in every mode, on every backend.

use conformance::{reference, suite};
use motet_core::backend::BACKENDS;
use motet_core::ops::Primitive;

#[test]
fn all_modes_agree_with_each_other_and_the_reference() {
    let trials = suite::trials().unwrap();
    for backend in BACKENDS {
        let failures: Vec<String> = trials
            .iter()
            .filter_map(|trial| trial.check(*backend).err())
            .collect();
        assert!(
            failures.is_empty(),
            "{} of {} trials failed on {}:\n{}",
            failures.len(),
            trials.len(),
            backend.device(),
            failures.join("\n")
        );
    }
}

#[test]
fn threads_share_arrays() {
    let trials = suite::trials().unwrap();
    for backend in BACKENDS {
        suite::check_threads(&trials, *backend).unwrap();
    }
}

#[test]
fn what_is_checked_elsewhere_exists() {
    for (name, _) in reference::ELSEWHERE {
        assert!(Primitive::NAMES.contains(name), "{name} is gone");
    }
}
