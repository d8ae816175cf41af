//! Why the command ends without success: a message for a person, an exit code for a program.

use motet_core::error::{Error, ErrorKind};

/// A message for stderr (empty where all has been said) and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
}

/// `Result` with a [`Failure`].
pub type Outcome<T = ()> = Result<T, Failure>;

pub const CHECK_FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const BAD_FILE: u8 = 3;
pub const UNSUPPORTED: u8 = 4;

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            code,
        }
    }

    /// The user asked for something that does not make sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(USAGE, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match error.kind() {
            // All values come from files, so one that does not fit is a file's fault.
            ErrorKind::File | ErrorKind::Invalid => BAD_FILE,
            ErrorKind::Unsupported => UNSUPPORTED,
            _ => CHECK_FAILED,
        };
        Failure::new(code, error.to_string())
    }
}
