//! The watchdog: ends the process when a program does not end, and says who waits for what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::program::Program;

/// How long a program may take. They take milliseconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// The exit code of a process that hung.
const HUNG: i32 = 3;

/// Watches the threads of a program.
pub(super) struct Watchdog<'a> {
    program: &'a Program,
    threads: Vec<Watched>,
    done: Mutex<bool>,
    wake: Condvar,
}

#[derive(Default)]
struct Watched {
    /// The number of the action that it is at. A hint for people: Relaxed.
    action: AtomicUsize,
    /// Where the system tells about the thread.
    folder: OnceLock<String>,
}

impl Watchdog<'_> {
    pub(super) fn new(program: &Program) -> Watchdog<'_> {
        Watchdog {
            program,
            threads: program.threads.iter().map(|_| Watched::default()).collect(),
            done: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    /// The calling thread is this one of the program, and goes on with this action.
    pub(super) fn note(&self, thread: usize, action: usize) {
        let watched = &self.threads[thread];
        watched.action.store(action, Ordering::Relaxed);
        watched.folder.get_or_init(|| {
            let folder = std::fs::read_link("/proc/thread-self");
            folder.map_or(String::new(), |folder| {
                format!("/proc/{}", folder.display())
            })
        });
    }

    /// The program has ended.
    pub(super) fn dismiss(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Waits until it has.
    pub(super) fn watch(&self) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(done, PATIENCE, |done| !*done);
        if !*waited.unwrap_or_else(PoisonError::into_inner).0 {
            eprintln!("a program has hung:\n{}", self.describe());
            std::process::exit(HUNG);
        }
    }

    fn describe(&self) -> String {
        let mut text = self.program.to_string();
        for (number, watched) in self.threads.iter().enumerate() {
            let at = watched.action.load(Ordering::Relaxed);
            let action = self.program.threads[number].get(at);
            let action = action.map_or("its end".to_owned(), |action| format!("{action:?}"));
            let folder = watched.folder.get().map_or("", String::as_str);
            let tell = |file| std::fs::read_to_string(format!("{folder}/{file}"));
            let waits = tell("wchan").unwrap_or_else(|_| "ended".to_owned());
            text += &format!("thread {number} is at {action} (action {at}), in {waits}\n");
        }
        text
    }
}
