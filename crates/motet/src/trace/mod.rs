//! Recording what runs on which thread when, and what threads wait for.
//!
//! Nothing is recorded until [`start`], and then what all threads of the process do, until the
//! recording is stopped. Any thread may start and stop, while others compute; a second recording
//! at once is an error. MLX's `metal.start_capture` and `stop_capture` are the like for a GPU.
//!
//! ```
//! use motet::prelude::*;
//! let recording = motet::trace::start()?;
//! let x = array!([1.0, 2.0]);
//! eval(&[&x + &x])?;
//! let timeline = recording.stop();
//! assert_eq!(timeline.lost, 0);
//! let mut json = Vec::new();
//! motet::trace::write_chrome_json(&timeline, &mut json).unwrap();
//! # Ok::<(), motet::Error>(())
//! ```
//!
//! What is written opens in Perfetto (ui.perfetto.dev) and in Chrome (about:tracing). Functions are
//! told apart by their names: the file's, or what [`Function::named`](crate::Function::named) says.
//!
//! A recording keeps about a million events, the first ones, and counts those beyond. What runs while
//! the recording stops is not in it, nor, as a rule, what has ended within that.

mod chrome;

pub use chrome::write_chrome_json;
pub use motet_core::trace::{
    Cause, Event, FunctionLabel, Label, Recording, StepLabel, ThreadEvents, Timeline, What, start,
};
