//! Errors for people: `[op] what was wrong: got ..., expected ...; hint`.
//!
//! An [`Error`] is a value that is cheap to clone, because failure is a state that an array keeps
//! and that everything depending on it shares.

use std::fmt;
use std::sync::Arc;

use crate::cancel::Interrupted;

/// What went wrong, in which operation or file, and why.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    origin: String,
    message: String,
    cause: Option<Error>,
}

/// `Result` with motet's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`], for programs that react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument's shape, dtype, count, name or value does not fit.
    Invalid,
    /// A file cannot be read, is damaged, or contradicts itself.
    File,
    /// The operation, dtype or file feature is known but not implemented.
    Unsupported,
    /// More memory was needed than there is or than the limit allows.
    Memory,
    /// The call was cancelled.
    Cancelled,
    /// The call's deadline passed.
    DeadlineExceeded,
    /// A kernel panicked: a bug in motet.
    Internal,
}

impl Error {
    /// An error of `kind` in `origin` (an operation or a file), with a message that says what was
    /// got and what was expected.
    pub fn new(kind: ErrorKind, origin: impl Into<String>, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            origin: origin.into(),
            message: message.into(),
            cause: None,
        }))
    }

    /// An argument that does not fit.
    pub fn invalid(origin: impl Into<String>, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, origin, message)
    }

    /// A file that cannot be read.
    pub fn file(origin: impl Into<String>, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::File, origin, message)
    }

    /// Something that is known but not implemented.
    pub fn unsupported(origin: impl Into<String>, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, origin, message)
    }

    /// The same failure seen from further out: keeps the kind, and this error as the cause.
    pub fn context(self, origin: impl Into<String>, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind: self.kind(),
            origin: origin.into(),
            message: message.into(),
            cause: Some(self),
        }))
    }

    /// The same failure as one of a file: whatever is wrong with what a file says is its fault.
    pub fn in_file(self, origin: impl Into<String>, message: impl Into<String>) -> Error {
        let kind = match self.kind() {
            ErrorKind::Invalid => ErrorKind::File,
            kind => kind,
        };
        Error(Arc::new(Inner {
            kind,
            origin: origin.into(),
            message: message.into(),
            cause: Some(self),
        }))
    }

    /// The same failure under the name that the caller knows.
    #[cfg(not(loom))]
    pub(crate) fn with_origin(self, origin: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind: self.kind(),
            origin: origin.into(),
            message: self.0.message.clone(),
            cause: self.0.cause.clone(),
        }))
    }

    /// A panic in `origin`, caught; where a kernel unwinds because its call has ended, that error.
    pub fn from_panic(origin: &str, panic: &(dyn std::any::Any + Send)) -> Error {
        if let Some(Interrupted(error)) = panic.downcast_ref() {
            return error.clone();
        }
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        Error::new(ErrorKind::Internal, origin, format!("panicked: {message}"))
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation or file that the error is about.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.0.origin, self.0.message)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_kind_and_reads_from_outside_in() {
        let inner = Error::invalid("Add", "shapes differ: got (2) and (3)");
        let outer = inner.clone().context("model.mlxfn", "node 7");
        assert_eq!(outer.kind(), ErrorKind::Invalid);
        assert_eq!(
            outer.to_string(),
            "[model.mlxfn] node 7: [Add] shapes differ: got (2) and (3)"
        );
        assert_eq!(inner.in_file("m", "n").kind(), ErrorKind::File);
    }
}
